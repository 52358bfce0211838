data "docs" {
  source = module.shared.path # ERROR: Undeclared reference | There is no module.shared. No module is declared.
}
