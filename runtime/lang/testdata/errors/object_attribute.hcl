model "base" { source = "./m" }
data "docs" { source = "./docs" }
locals {
  sizes = { small = 8, large = 16 }
}

sft "sweep" {
  for_each = toset(["a", "b"])
  base     = model.base
  data     = data.docs
}

eval "sweep" {
  for_each = sft.sweep
  model    = each.value.modle # ERROR: Unsupported attribute | Did you mean model?
}

pack "train" {
  input   = data.docs
  model   = model.base
  seq_len = local.sizes.medium # ERROR: Unsupported attribute | It has large, small.
}
