model "base" { source = "./m" }
data "docs" { source = "./docs" }

locals {
  digits = range(0, 101)
}

sft "number" {
  for_each = matrix(8) # ERROR: Invalid function argument | write the axes as an object of lists
  base     = model.base
  data     = data.docs
}

sft "list" {
  for_each = matrix({ rank = [[8]] }) # ERROR: Invalid function argument | axis rank holds a list
  base     = model.base
  data     = data.docs
}

sft "comma" {
  for_each = matrix({ name = ["a,b"] }) # ERROR: Invalid function argument | commas and equals signs would make the keys ambiguous
  base     = model.base
  data     = data.docs
}

sft "many" {
  for_each = matrix({ a = local.digits, b = local.digits }) # ERROR: Invalid function argument | more than 10000 combinations
  base     = model.base
  data     = data.docs
}
