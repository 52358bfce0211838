# A module, loaded as if it were a pipeline.
variable "docs" { # ERROR: Missing value | Variable "docs" takes a dataset, which only a module block can give: write module "NAME" { source = ... docs = ... }
  type = dataset
}
variable "judges" { # ERROR: Missing value | takes a map of teachers
  type = map(teacher)
}
variable "base" {
  type    = model
  default = null
}
dedup "clean" {
  input = var.docs
}
output "rows" {
  value = dedup.clean.dataset
}
