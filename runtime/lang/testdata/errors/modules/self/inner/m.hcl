module "outer" {
  source = "../../self" # ERROR: Module cycle | the directory of module.self
}
