model "base" { source = "./m" }
data "docs" { source = "./docs" }

sft "a" {
  base = model.base
  data = data.docs
  resources {
    gpu = 1 # ERROR: Unknown attribute | resources has no attribute "gpu". Did you mean gpus?
  }
  checkpoint { # ERROR: Unknown block | sft stages save no checkpoints
    every = 0.5 # ERROR: Invalid value | whole number
  }
  resource { # ERROR: Unknown block | Did you mean resources?
  }
  retry = 3 # ERROR: Unknown attribute | It is a block: write retry { ... } without the equals sign.
}

lock "x" { # ERROR: Unknown kind of block | pipe.lock, which pipe lock writes
}
