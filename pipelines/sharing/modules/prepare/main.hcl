# Rows without copies and without questions of the tests, packed for training.

variable "rows" {
  type        = dataset
  description = "Conversations to train on"
}

variable "against" {
  type        = list(dataset)
  description = "Tests that no row may give away"
}

variable "model" {
  type        = model
  description = "Whose tokenizer and chat template"
}

variable "seq_len" {
  type    = number
  default = 256
}

dedup "clean" {
  input     = var.rows
  threshold = 0.97
  decontaminate { against = var.against }
}

pack "train" {
  input   = dedup.clean.dataset
  model   = var.model
  seq_len = var.seq_len
}

output "packed" {
  value       = pack.train.dataset
  description = "Rows for sft"
}

output "clean" { value = dedup.clean.dataset }
