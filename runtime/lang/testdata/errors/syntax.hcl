data "docs" {
  source = = # ERROR: Invalid expression
}
