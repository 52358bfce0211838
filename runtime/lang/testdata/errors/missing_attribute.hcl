data "docs" {} # ERROR: Missing attribute | data "docs" needs source (a string: Files or rows); write source = "...".

dedup "clean" { # ERROR: Missing attribute | dedup "clean" needs input (a dataset: Rows); write input = data.NAME.
  decontaminate { # ERROR: Missing attribute | decontaminate needs against (a list of datasets: Sets to keep out); write against = [data.NAME].
    ngram = 8
  }
}

dedup "null" { # ERROR: Missing attribute | needs input
  input = null
}

locals {
  nothing = null
}

dedup "null_value" {
  input = local.nothing # ERROR: Missing attribute | input is null here
}
