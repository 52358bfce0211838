# What is wrong in a module is said once, where it stands, with the uses by
# which it was reached.
data "docs" { source = "x" }
module "a" {
  source = "./modules/inside"
  docs   = data.docs
}
module "b" {
  source = "./modules/inside"
  docs   = data.docs
}
dedup "d" { input = module.a.rows }
