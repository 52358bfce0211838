# Mistakes that do not follow from each other are reported together.
data "docs" { sorce = "./docs" } # ERROR: Unknown attribute

dedup "a" {
  input     = data.docs
  threshold = 2 # ERROR: Invalid value
}

dedup "b" {
  input = dedup.a.dataset
  note  = local.broken
}

locals {
  broken = 1 + "x" # ERROR: Invalid operand
}

pack "p" {
  input   = dedup.b.dataset
  model   = dedup.b.dataset # ERROR: Wrong type
  seq_len = local.broken
}
