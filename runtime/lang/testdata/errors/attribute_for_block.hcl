data "docs" { source = "./docs" }

dedup "clean" {
  input = data.docs
  decontaminate = { against = [data.docs] } # ERROR: Unknown attribute | It is a block: write decontaminate { ... } without the equals sign.
  threshold { # ERROR: Unknown block | It is an attribute: write threshold = 0.5.
  }
  decontaminat { # ERROR: Unknown block | Did you mean decontaminate?
  }
}
