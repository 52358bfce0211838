# Sources that cannot be used as a module.
module "a" { source = "./modules/syntax" }
module "b" {
  source = "./modules/syntax" # ERROR: Module cannot be used | errors in ./modules/syntax
}
module "c" {
  source = "./modules/empty" # ERROR: Module cannot be used | holds no *.hcl file
}
module "d" {
  source = "./list.tmpl" # ERROR: Module cannot be used | a module is a directory
}
dedup "d" { input = data.nothing } # ERROR: Undeclared reference
dedup "e" { input = module.a.x }
