model "base" { source = "./m" }
data "docs" { source = "./docs" }

variable "token" {
  default   = "x"
  sensitive = true
}

locals {
  nothing = null
}

sft "null" {
  for_each = local.nothing # ERROR: Invalid for_each | for_each is null
  base     = model.base
  data     = data.docs
}

sft "null_inside" {
  for_each = toset(["a", local.nothing]) # ERROR: Invalid for_each | The set holds null
  base     = model.base
  data     = data.docs
}

sft "secret" {
  for_each = toset([var.token]) # ERROR: Sensitive value | for_each would show the sensitive value in addresses
  base     = model.base
  data     = data.docs
}

eval "empty" {
  for_each = {}
  model    = model.base
}

select "best" {
  from   = eval.empty # ERROR: Invalid value | from has no candidates: the sweep behind it has no instances.
  metric = "x.acc"
}
