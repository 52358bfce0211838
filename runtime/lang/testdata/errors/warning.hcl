model "base" { source = "./m" }
data "docs" { source = "./docs" }

sft "a" {
  base = model.base
  data = data.docs
  resources { # ERROR: No effect | runs every stage on this machine
    gpus = 1
  }
}
