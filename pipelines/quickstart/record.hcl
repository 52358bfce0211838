# Records the teacher's answers that pipelines/quickstart.hcl replays: the same
# synth blocks, with SmolLM2-135M-Instruct itself as the teacher. record.sh
# runs it.

variable "teacher" {
  description = "SmolLM2-135M-Instruct: a GGUF file, a directory, or a hub id"
  default     = "hf://HuggingFaceTB/SmolLM2-135M-Instruct"
}

model "teacher" {
  source = var.teacher
}

teacher "live" {
  provider    = "local"
  model       = model.teacher
  model_id    = "SmolLM2-135M-Instruct"
  temperature = 0.5
  max_tokens  = 96
  concurrency = 16
}

data "docs" {
  source = "./docs/*.txt"
}

synth "cot" {
  teacher      = teacher.live
  documents    = data.docs
  method       = "document_to_dialogue"
  count        = 60
  attempts     = 5 # of 135 million parameters, the teacher often misses
  context      = true
  self_correct = true
}

synth "prefs" {
  teacher = teacher.live
  prompts = synth.cot.dataset
  method  = "preference_pairs"
  count   = 60
}
