# A real model on real text: SmolLM2-135M-Instruct reads 56 licences, asks and
# answers questions about them, and is tuned on what it wrote. Under 30 minutes
# on two cores.
#
#   pipelines/legal/fetch_model.sh
#   go run ./cmd/pipe run pipelines/legal.hcl
#
# Where a model hub can be reached, the script is not needed:
#   --var model=hf://HuggingFaceTB/SmolLM2-135M-Instruct

pipeline "legal" {
  seed        = 1
  description = "Questions about licence clauses, answered from the clause"
}

variable "model" {
  default     = "./legal/cache/SmolLM2-135M-Instruct.Q4_1.gguf"
  description = "SmolLM2-135M-Instruct: a GGUF file, a directory, or a hub id"
}

variable "dialogues" {
  default     = 72
  description = "Questions to ask the teacher for"
}

variable "items" {
  default     = 8
  description = "Needles of each cell"
}

model "smol" {
  source = var.model
}

teacher "smol" {
  provider    = "local"
  model       = model.smol
  model_id    = "SmolLM2-135M-Instruct"
  temperature = 0.5
  max_tokens  = 80
  concurrency = 16
}

data "licenses" {
  source = "./legal/corpus/*.txt"
}

data "general" {
  source = "./legal/general.jsonl"
}

# Written for this project; no passage of theirs is in the corpus.
data "choice" {
  source = "./legal/questions/choice.jsonl"
}

data "answer" {
  source = "./legal/questions/answer.jsonl"
}

data "prose" { # paragraphs of licences that are not in the corpus
  source = "./legal/prose.jsonl"
}

synth "cot" {
  teacher      = teacher.smol
  documents    = data.licenses
  method       = "document_to_dialogue"
  count        = var.dialogues
  chunk_chars  = 500
  attempts     = 4
  context      = true
  self_correct = true
}

synth "prefs" {
  teacher = teacher.smol
  prompts = synth.cot.dataset
  method  = "preference_pairs"
  count   = var.dialogues
}

dedup "cot" {
  input     = synth.cot.dataset
  threshold = 0.95
  decontaminate {
    against = [data.choice, data.answer, data.prose]
  }
}

mix "train" {
  model = model.smol
  source "cot" {
    input  = dedup.cot.dataset
    weight = 0.92
  }
  source "general" {
    input  = data.general
    weight = 0.08
  }
}

pack "train" {
  input   = mix.train.dataset
  model   = model.smol
  seq_len = 512
}

sft "tuned" {
  base                   = model.smol
  data                   = pack.train.dataset
  eval_split             = 0.1
  epochs                 = 3
  batch_size             = 1
  grad_accum             = 2
  lr                     = 2e-4
  gradient_checkpointing = true
  checkpoint_every       = 10
  adapter "dora" {
    rank    = 16
    alpha   = 32
    targets = ["all-linear"]
  }
}

dpo "final" {
  base   = sft.tuned.model
  data   = synth.prefs.dataset
  loss   = "sigmoid"
  beta   = 0.1
  lr     = 2e-5
  epochs = 1
}

eval "final" {
  model = dpo.final.model
  suite "choice" {
    data = data.choice
  }
  suite "answer" {
    data = data.answer
  }
  suite "prose" {
    data = data.prose
  }
  needle {
    lengths  = [256, 512]
    depths   = [0, 0.5, 1]
    per_cell = var.items
  }
  gate "no_forgetting" {
    condition     = self.metrics["prose.nll"] <= baseline.metrics["prose.nll"] + 0.1
    error_message = "the model forgot licence prose"
  }
}

export "release" {
  model   = dpo.final.model
  formats = ["peft", "safetensors", "gguf:q8_0"]
}
