# The last word on a model: tests, and a gate against forgetting.

variable "model" { type = model }

variable "suites" {
  type        = map(dataset)
  description = "Tests by name: choice and prose"
}

variable "forgotten" {
  type        = number
  description = "How much more a token of prose may cost than before, in nats"
}

eval "final" {
  model = var.model
  suite "choice" { data = var.suites.choice }
  suite "prose" { data = var.suites.prose }
  gate "no_forgetting" {
    condition     = self.metrics["prose.nll"] <= baseline.metrics["prose.nll"] + var.forgotten
    error_message = "prose costs ${self.metrics["prose.nll"]} nats a token, and ${baseline.metrics["prose.nll"]} before"
  }
}

output "model" { value = eval.final.model }

output "metrics" { value = eval.final.metrics }
