pipeline "a" {}
pipeline "b" {} # ERROR: Duplicate block | pipeline

data "docs" { source = "./docs" }
data "docs" { source = "./other" } # ERROR: Duplicate name | data.docs was already declared at

locals {
  x = 1
}

locals {
  x = 2 # ERROR: Duplicate name | local.x
}

variable "v" { default = 1 }
variable "v" { default = 2 } # ERROR: Duplicate name | var.v

dedup "clean" {
  input = data.docs
  decontaminate { 
    against = []
    ngram   = 1
  }
  decontaminate { # ERROR: Duplicate block | at most one decontaminate
    against = []
  }
}

mix "m" {
  source "a" {
    input  = data.docs
    weight = 1
  }
  source "a" { # ERROR: Duplicate name | source "a" was already written at
    input  = data.docs
    weight = 1
  }
}
