pipeline "p" {
  env         = "HOME"  # ERROR: Wrong type | env takes a list of names, such as ["HF_HOME"].
  description = local.x # ERROR: Invalid reference | The pipeline block may refer to variables only.
}

locals {
  x = "y"
}
