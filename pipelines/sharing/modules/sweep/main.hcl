# Every rank with every learning rate, measured on one test; the best goes on.

variable "base" { type = model }

variable "rows" {
  type        = dataset
  description = "Packed rows"
}

variable "test" {
  type        = dataset
  description = "Conversations whose answers the best point finds most likely"
}

variable "ranks" { type = list(number) }

variable "lrs" { type = list(number) }

variable "steps" {
  type    = number
  default = 100
  validation {
    condition     = var.steps >= 1
    error_message = "there must be a step"
  }
}

sft "point" {
  for_each  = matrix({ rank = var.ranks, lr = var.lrs })
  base      = var.base
  data      = var.rows
  max_steps = var.steps
  lr        = each.value.lr
  adapter "lora" {
    rank  = each.value.rank
    alpha = 2 * each.value.rank
  }
}

eval "point" {
  for_each = sft.point
  model    = each.value.model
  suite "test" {
    type = "perplexity"
    data = var.test
  }
}

select "best" {
  from   = eval.point
  metric = "test.nll"
}

output "best" {
  value       = select.best.model
  description = "The model of the best point"
}

output "metrics" { value = select.best.metrics }
