# What a module block gives to the variables of its module, and takes from its
# outputs.
data "docs" { source = "x" }
model "m" { source = "x" }
module "a" { # ERROR: Missing attribute | module "a" needs docs (a dataset: Rows to clean)
  source   = "./modules/inputs"
  tresh    = 1       # ERROR: Unknown attribute | Did you mean thresh?
  for_each = {}      # ERROR: Unknown attribute | one use of the module
  version  = "1"     # ERROR: Unknown attribute | part of its source
}
module "b" {
  source = "./modules/inputs"
  docs   = model.m   # ERROR: Wrong type | model.m is a model; docs takes a dataset.
  thresh = "high"    # ERROR: Wrong type | takes a number
  sets   = data.docs # ERROR: Wrong type | sets takes a list of datasets. Write [data.docs].
}
module "c" {
  source = "./modules/inputs"
  docs   = dedup.d   # ERROR: Wrong type | Write dedup.d.dataset or dedup.d.rejects.
  thresh = 2         # ERROR: Invalid value for variable | too high
  sets   = [model.m] # ERROR: Wrong type
}
dedup "d" { input = data.docs }
dedup "e" { input = module.a.rows }
dedup "f" { input = module.c.row } # ERROR: Unknown output | Did you mean module.c.rows?
dedup "g" { input = module.c.dedup.d.dataset } # ERROR: Unknown output | reached by its outputs
dedup "h" { input = module.c } # ERROR: Incomplete reference | Its outputs are rows.
