# Pretrains embedded://tiny from nothing: 1.1 million parameters on licence
# texts and generated look-up tasks. pipelines/tiny/make.sh writes its inputs,
# runs it, and puts the result into the program.

pipeline "tiny" {
  seed        = 20261124
  description = "Pretraining of the embedded model"
}

# config.json and tokenizer.json, no weights: sft starts them at random.
model "config" {
  source = "./config"
}

data "text" {
  source = "./build/text.jsonl.gz"
}

data "copies" {
  source = "./build/copies.jsonl.gz"
}

data "tasks" {
  source = "./build/tasks.jsonl.gz"
}

data "heldout" {
  source = "./build/heldout.jsonl.gz"
}

# First copying alone, from which the heads grow that look back.
pack "copies" {
  input   = data.copies
  model   = model.config
  seq_len = 512
}

sft "copies" {
  base         = model.config
  init         = "random"
  data         = pack.copies.dataset
  epochs       = 1
  batch_size   = 2
  lr           = 2.5e-3
  betas        = [0.9, 0.98]
  weight_decay = 0.05
  warmup_ratio = 0.05

  checkpoint_every = 500
  adapter "none" {}
}

# Then text, tasks, and some copying still.
mix "corpus" {
  model  = model.config
  tokens = 9000000
  source "text" {
    input      = data.text
    weight     = 0.4
    max_repeat = 4
  }
  source "tasks" {
    input  = data.tasks
    weight = 0.5
  }
  source "copies" {
    input  = data.copies
    weight = 0.1
  }
}

pack "corpus" {
  input    = mix.corpus.dataset
  model    = model.config
  seq_len  = 512
  overflow = "split"
  loss     = "all"
}

pack "heldout" {
  input    = data.heldout
  model    = model.config
  seq_len  = 512
  overflow = "split"
  loss     = "all"
}

sft "tiny" {
  base         = sft.copies.model
  data         = pack.corpus.dataset
  eval_data    = pack.heldout.dataset
  epochs       = 1
  batch_size   = 4
  lr           = 2e-3
  betas        = [0.9, 0.98]
  weight_decay = 0.05
  warmup_ratio = 0.05

  checkpoint_every = 200
  adapter "none" {}
}

eval "tiny" {
  model = sft.tiny.model
  suite "licences" {
    data = data.heldout
  }
  needle {
    format  = "plain"
    lengths = [128, 256, 384]
    depths  = [0, 0.5, 1]
    digits  = 4
  }
}

export "tiny" {
  model   = sft.tiny.model
  formats = ["safetensors"]
  name    = "tiny"
}
