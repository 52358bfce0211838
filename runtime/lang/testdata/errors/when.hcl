model "base" { source = "./m" }
data "docs" { source = "./docs" }
variable "full" { default = false }

sft "extra" {
  when = var.full
  base = model.base
  data = data.docs
}

export "extra" {
  model   = sft.extra.model # ERROR: Reference to a stage that is switched off | sft.extra has when = false
  formats = []
}

sft "what" {
  when = "perhaps" # ERROR: Wrong type | A condition is true or false
  base = model.base
  data = data.docs
}
