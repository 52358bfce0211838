data "docs" { source = "./docs" }

dedpu "clean" { # ERROR: Unknown kind of block | Did you mean dedup?
  input = data.docs
}

zzz "x" {} # ERROR: Unknown kind of block | Known are

# A reference by the right name is no error of its own.
dedup "again" {
  input = dedup.clean.dataset
}
