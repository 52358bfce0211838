pipeline "x" { # ERROR: Invalid block | module.a (testdata/errors/module_inside.hcl:4), module.b (testdata/errors/module_inside.hcl:8)
}
variable "docs" { type = dataset }
variable "source" { default = 1 } # ERROR: Invalid name | module.a
dedup "clean" {
  input    = data.docs # ERROR: Undeclared reference | Did you mean var.docs?
  treshold = 0.5       # ERROR: Unknown attribute | Reached by module.a (testdata/errors/module_inside.hcl:4), module.b (testdata/errors/module_inside.hcl:8).
}
dedup "clean2" {
  input     = var.docs
  threshold = 3 # ERROR: Invalid value | must be above 0
}
dedup "each" {
  for_each = toset(["x"])
  input    = var.docs
}
dedup "never" {
  when  = false
  input = var.docs
}
dedup "instance" {
  input = dedup.each["y"].dataset # ERROR: Unknown instance | dedup.each has no instance "y"
}
dedup "swept" {
  input = dedup.each.dataset # ERROR: Unknown instance | dedup.each has for_each; write dedup.each["x"].dataset
}
dedup "off" {
  input = dedup.never.dataset # ERROR: Reference to a stage that is switched off | choose with dedup.never == null
}
output "rows" { value = dedup.clean.dataste } # ERROR: Unknown output | Did you mean dedup.clean.dataset?
