# The whole road on one page, in under two minutes on two cores: a teacher's
# questions and worked answers, deduplication, a mixture, packing, DoRA
# fine-tuning, preference tuning, evaluation, export.
#
#   go run ./cmd/pipe run pipelines/quickstart.hcl
#
# The teacher's answers were recorded from SmolLM2-135M-Instruct and lie beside
# this file; pipelines/quickstart/record.sh records them again.

pipeline "quickstart" {
  seed        = var.seed
  description = "A 1.1 million parameter model learns to answer questions about a text"
}

variable "seed" {
  default     = 1
  description = "Seed of the adapters, the order of rows, and the needle texts"
}

variable "lr" {
  default     = 1e-3
  description = "Learning rate of the fine-tuning"
}

variable "out" {
  default     = "./out/quickstart"
  description = "Directory of the exported model"
}

# A small Llama-architecture model that is part of the program.
model "tiny" {
  source = "embedded://tiny"
}

teacher "recorded" {
  provider    = "journal"
  model_id    = "SmolLM2-135M-Instruct"
  journal     = "./quickstart/answers.jsonl"
  temperature = 0.5
  max_tokens  = 96
}

data "docs" {
  source = "./quickstart/docs/*.txt"
}

data "lookup" { # with planted copies, near copies, and rows of the tests below
  source = "./quickstart/lookup.jsonl"
}

data "pairs" { # the bare value is better than a sentence around it
  source = "./quickstart/pairs.jsonl"
}

data "general" { # the kind of text that tiny was pretrained on
  source = "./quickstart/general.jsonl"
}

data "extract" {
  source = "./quickstart/extract.jsonl"
}

data "choice" {
  source = "./quickstart/choice.jsonl"
}

data "prose" {
  source = "./quickstart/prose.jsonl"
}

synth "cot" {
  teacher      = teacher.recorded
  documents    = data.docs
  method       = "document_to_dialogue"
  count        = 60
  attempts     = 5 # of 135 million parameters, the teacher often misses
  context      = true
  self_correct = true
}

synth "prefs" {
  teacher = teacher.recorded
  prompts = synth.cot.dataset
  method  = "preference_pairs"
  count   = 60
}

dedup "cot" {
  input     = synth.cot.dataset
  threshold = 0.95
  decontaminate {
    against = [data.extract, data.choice]
  }
}

dedup "lookup" {
  input     = data.lookup
  threshold = 0.97
  decontaminate {
    against = [data.extract, data.choice]
  }
}

dedup "pairs" {
  input     = data.pairs
  threshold = 0.97
  decontaminate {
    against = [data.extract, data.choice]
  }
}

mix "train" {
  model = model.tiny
  source "cot" {
    input  = dedup.cot.dataset
    weight = 0.2
  }
  source "lookup" {
    input  = dedup.lookup.dataset
    weight = 0.7
  }
  source "general" { # keeps what the base could do
    input  = data.general
    weight = 0.1
  }
}

mix "prefs" {
  model = model.tiny
  source "cot" {
    input  = synth.prefs.dataset
    weight = 0.2
  }
  source "lookup" {
    input  = dedup.pairs.dataset
    weight = 0.8
  }
}

pack "train" {
  input   = mix.train.dataset
  model   = model.tiny
  seq_len = 512
}

sft "tuned" {
  base       = model.tiny
  data       = pack.train.dataset
  eval_split = 0.1
  epochs     = 4
  batch_size = 2
  lr         = var.lr
  adapter "dora" {
    rank    = 16
    alpha   = 32
    targets = ["all-linear"]
  }
}

dpo "final" {
  base       = sft.tuned.model
  data       = mix.prefs.dataset
  loss       = "sigmoid"
  beta       = 0.1
  eval_split = 0.2
  lr         = 2e-4
  batch_size = 4
}

eval "final" {
  model = dpo.final.model
  suite "extract" {
    data = data.extract
  }
  suite "choice" {
    data = data.choice
  }
  suite "prose" {
    data = data.prose
  }
  needle {
    format   = "plain"
    lengths  = [256, 512, 1024]
    depths   = [0, 0.5, 1]
    digits   = 5
    per_cell = 8
  }
  gate "no_forgetting" {
    condition     = self.metrics["prose.nll"] <= base.metrics["prose.nll"] + 0.4
    error_message = "the model forgot licence prose"
  }
}

export "release" {
  model   = dpo.final.model
  formats = ["peft", "safetensors", "gguf:q8_0"]
  name    = "quickstart"
  path    = var.out
  data    = [mix.train.dataset, mix.prefs.dataset] # for the model card
  metrics = [sft.tuned.metrics, dpo.final.metrics, eval.final.metrics]
}
