model "base" { source = "./m" }
data "docs" { source = "./docs" }

sft "list" {
  for_each = [8, 16] # ERROR: Invalid for_each | for_each is a list, whose elements have no stable keys
  base     = model.base
  data     = data.docs
}

sft "number" {
  for_each = 8 # ERROR: Invalid for_each | for_each is a number
  base     = model.base
  data     = data.docs
}

sft "self" {
  for_each = { a = each.key } # ERROR: Invalid reference | cannot refer to each
  base     = model.base
  data     = data.docs
}

sft "single" {
  base = model.base
  data = data.docs
}

eval "single" {
  for_each = sft.single # ERROR: Invalid for_each | sft.single is one stage without for_each
  model    = each.value.model
}

sft "sweep" {
  for_each = matrix({ rank = [8, 16] })
  base     = model.base
  data     = data.docs
}

export "attr" {
  model   = sft.sweep.model # ERROR: Unknown instance | sft.sweep has for_each; write sft.sweep["rank=16"].model for one instance, or for_each = sft.sweep
  formats = []
}

export "key" {
  model   = sft.sweep["rank=9"].model # ERROR: Unknown instance | sft.sweep has no instance "rank=9". Did you mean "rank=8"?
  formats = []
}

export "indexed" {
  model   = sft.single[0].model # ERROR: Unknown output | sft.single is one stage without for_each; write sft.single.model.
  formats = []
}

sft "axes" {
  for_each = matrix({ rank = 8 }) # ERROR: Invalid function argument | axis rank is not a list
  base     = model.base
  data     = data.docs
}

sft "twice" {
  for_each = matrix({ rank = [8, 8] }) # ERROR: Invalid function argument | occurs twice
  base     = model.base
  data     = data.docs
}

# Nothing is reported about what a broken sweep would have been.
export "broken" {
  model   = sft.twice["x"].anything
  formats = []
}

sft "nothing" {
  for_each = {}
  base     = model.base
  data     = data.docs
}

export "nothing" {
  model   = sft.nothing["x"].model # ERROR: Unknown instance | has no instances
  formats = []
}
