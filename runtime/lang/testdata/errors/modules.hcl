# What is wrong with module and output blocks by themselves; modules/ holds the
# modules that the module_*.hcl files use.
data "docs" { source = "./docs" }

module "none" { # ERROR: Missing attribute | needs source
}

module "nowhere" {
  source = "./nowhere" # ERROR: Module cannot be used | no such file
  docs   = data.dosc   # ERROR: Undeclared reference | Did you mean data.docs?
}

module "computed" {
  source = "./${var.x}" # ERROR: Wrong type | constant string
}

module "bare" {
  source = "modules/prep" # ERROR: Invalid value | begins with ./ or ../
}

module "git" {
  source = "git::https://example.org/r.git" # ERROR: Invalid value | source is
}

module "itself" {
  source = "./" # ERROR: Module cycle | the pipeline itself
}

module "nowhere" { # ERROR: Duplicate name
  source = "./nowhere"
}

module "blocks" {
  source = "./nowhere" # ERROR: Module cannot be used
  docs { # ERROR: Unknown block | write docs = { ... }
  }
}

dedup "a" {
  input = module.nowere.rows # ERROR: Undeclared reference | Did you mean module.nowhere?
}

dedup "b" {
  input = module # ERROR: Incomplete reference | Write module.NAME.OUTPUT
}

dedup "c" {
  input = module.nowhere.rows
}

output "x" { # ERROR: Missing attribute | needs value
  vlaue = 1 # ERROR: Unknown attribute | Did you mean value?
}

output "y" {
  value = data.nothing # ERROR: Undeclared reference
  more { # ERROR: Unknown block
  }
}
