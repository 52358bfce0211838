# References that go in circles through modules, and a module that holds itself.
data "docs" { source = "x" }
module "a" {
  source = "./modules/cycles"
  docs   = module.b.rows # ERROR: Dependency cycle | module.a.var.docs → module.b.output.rows → module.b.dedup.d → module.b.var.docs → module.a.output.rows → module.a.dedup.d → module.a.var.docs
}
module "b" {
  source = "./modules/cycles"
  docs   = module.a.rows
}
module "self" { source = "./modules/self" }
