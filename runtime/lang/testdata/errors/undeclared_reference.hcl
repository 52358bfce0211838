data "docs" { source = "./docs" }
model "base" { source = "./m" }
variable "threshold" { default = 0.9 }

dedup "clean" {
  input     = data.dosc        # ERROR: Undeclared reference | There is no data.dosc. Did you mean data.docs?
  threshold = var.treshold     # ERROR: Undeclared reference | Did you mean var.threshold?
  note      = local.x          # ERROR: Undeclared reference | No local is declared.
  options   = { a = basee.x }  # ERROR: Undeclared reference | Nothing is named basee.
}

dedup "second" {
  input = dedup.clean.datset # ERROR: Unknown output | dedup.clean has no output "datset". Did you mean dedup.clean.dataset?
}

dedup "third" {
  input = data.docs.dataset # ERROR: Unknown output | data.docs is itself a dataset; write it without what follows.
}

dedup "fourth" {
  input = dedup.second.dataset.rows # ERROR: Unknown output | dedup.second.dataset is a dataset and has no parts
}

dedup "fifth" {
  input = dedup # ERROR: Incomplete reference | Write dedup.NAME. Declared are dedup.clean
}

pack "train" {
  input   = data.docs
  model   = data.base # ERROR: Undeclared reference | Did you mean model.base?
  seq_len = 8
}

dedup "sixth" {
  input = docs # ERROR: Undeclared reference | Nothing is named docs.
  note  = each.key # ERROR: Invalid reference | add for_each
}

dedup "seventh" {
  input = data.docs
  note  = path.cwd # ERROR: Invalid reference | path.root
  embedder = self.metrics["x"] # ERROR: Invalid reference | only inside a gate
}

dedup "eighth" {
  input      = data.docs
  depends_on = [data.other, "data.docs"] # ERROR: Undeclared reference # ERROR: Invalid reference | depends_on takes references to blocks
}
