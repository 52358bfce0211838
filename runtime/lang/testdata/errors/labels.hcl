data { # ERROR: Missing label | Write data "NAME" { ... }.
  source = "./docs"
}

data "a" "b" { # ERROR: Unexpected label | write data "a" { ... }
  source = "./docs"
}

data "two words" { # ERROR: Invalid name | cannot be referred to
  source = "./docs"
}

locals "x" { # ERROR: Unexpected label
}

data "docs" { source = "./docs" }

mix "m" {
  source { # ERROR: Missing label | Write source "NAME" { ... }.
    input  = data.docs
    weight = 1
  }
}

dedup "d" {
  input = data.docs
  decontaminate "x" { # ERROR: Unexpected label | Write decontaminate { ... }.
    against = []
    ngram   = 1
  }
}

stray = 1 # ERROR: Attribute outside of a block | stray stands alone

locals {
  block {} # ERROR: Unknown block | write block = { ... } for an object
}
