pipeline "legal" {
  seed = 20261123
}

variable "base" {
  default     = "hf://HuggingFaceTB/SmolLM2-135M-Instruct"
  description = "Student; any Llama-architecture checkpoint: safetensors directory, GGUF file or hub id"
}

model "base" { source = var.base }

teacher "local" {
  provider    = "local"          # or "openai" with endpoint = "http://gpu-box:8000/v1"
  model       = model.base
  temperature = 0.7
}

data "docs"    { source = "./corpus/licenses/*.txt" }
data "general" { source = "./corpus/general.jsonl" }
data "bench"   { source = "./bench/license_qa.jsonl" }

synth "cot" {                     # documents → questions → reasoning → self-check → answer
  teacher   = teacher.local
  documents = data.docs
  method    = "document_to_dialogue"
  count     = 400
  self_correct = true
}

synth "prefs" {
  teacher = teacher.local
  prompts = synth.cot.dataset
  method  = "preference_pairs"
  count   = 200
}

dedup "clean" {
  input     = synth.cot.dataset
  threshold = 0.92
  decontaminate {
    against = [data.bench]
    ngram   = 8
  }
}

mix "train" {
  source "legal" {
    input  = dedup.clean.dataset
    weight = 0.9 
  }
  source "general" {
    input  = data.general
    weight = 0.1 
  }
}

pack "train" {
  input   = mix.train.dataset
  model   = model.base            # tokenizer and chat template come from here
  seq_len = 1024
}

sft "legal" {
  for_each = matrix({ rank = [8, 16] })
  base   = model.base
  data   = pack.train.dataset
  epochs = 2
  lr     = 2e-4
  adapter "dora" {
    rank    = each.value.rank
    alpha   = 2 * each.value.rank
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
  }
  resources { gpus = 1 }          # never in the cache key
}

eval "sweep" {
  for_each = sft.legal
  model    = each.value.model
  suite "license_qa" { data = data.bench }
}

select "best" {
  from   = eval.sweep
  metric = "license_qa.acc" 
}

dpo "final" {
  base = select.best.model
  data = synth.prefs.dataset
  loss = "sigmoid"
  beta = 0.1
}

eval "final" {
  model = dpo.final.model
  suite "license_qa" { data = data.bench }
  suite "perplexity" { data = data.general }
  needle {
    lengths = [512, 1024, 2048]
    depths  = [0, 0.25, 0.5, 0.75, 1] 
  }
  gate "no_forgetting" {
    condition     = self.metrics["perplexity.nll"] <= baseline.metrics["perplexity.nll"] + 0.05
    error_message = "the model forgot general text"
  }
}

export "release" {
  model   = dpo.final.model
  formats = ["peft", "safetensors", "gguf:q8_0"]
}
