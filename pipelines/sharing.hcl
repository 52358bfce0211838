# A recipe of shared parts: three modules, a sweep of twelve points, the best of
# them, and a gate. docs/sharing.md goes through it; it takes seconds.
#
#   go run ./cmd/pipe run pipelines/sharing.hcl
#
# The modules lie beside it. From a repository their sources would be, for
# example, "git::https://example.org/recipes.git//modules/sweep?ref=v1".

pipeline "sharing" {
  seed        = 1
  description = "Tune the embedded model twelve ways and keep the best"
}

variable "steps" {
  default     = 6
  description = "Optimizer steps of each point of the sweep"
}

model "tiny" { source = "embedded://tiny" }

data "lookup" {
  source = "./quickstart/lookup.jsonl"
  limit  = 160
}

data "held" { # prepare keeps these, and copies of them, out of the training rows
  source  = "./quickstart/lookup.jsonl"
  shuffle = true
  limit   = 24
}

data "choice" {
  source = "./quickstart/choice.jsonl"
  limit  = 16
}

data "prose" {
  source = "./quickstart/prose.jsonl"
  limit  = 4
}

module "prepare" {
  source  = "./sharing/modules/prepare"
  rows    = data.lookup
  against = [data.choice, data.held]
  model   = model.tiny
}

module "sweep" {
  source = "./sharing/modules/sweep"
  base   = model.tiny
  rows   = module.prepare.packed
  test   = data.held
  ranks  = [2, 4, 8]
  lrs    = [2e-4, 5e-4, 1e-3, 2e-3]
  steps  = var.steps
}

module "judge" {
  source    = "./sharing/modules/judge"
  model     = module.sweep.best
  suites    = { choice = data.choice, prose = data.prose }
  forgotten = 0.5
}

export "release" {
  model   = module.judge.model
  formats = ["peft"]
}
