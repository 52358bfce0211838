data "docs" {
  source = module.shared.path # ERROR: Not part of this version | Modules are not part of this version
}
