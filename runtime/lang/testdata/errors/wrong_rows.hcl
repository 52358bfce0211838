model "base" { source = "./m" }
data "docs" { source = "./docs" }

dedup "clean" { input = data.docs }

pack "train" {
  input   = dedup.clean.dataset
  model   = model.base
  seq_len = 8
}

sft "unknown" {
  base = model.base
  data = data.docs # what is in it is not known: it may be packed
}

sft "raw" {
  base = model.base
  data = dedup.clean.dataset # ERROR: Wrong type | dedup.clean.dataset is a dataset of plain rows; data takes one of packed rows. First write pack "NAME" { input = dedup.clean.dataset ... }, and here data = pack.NAME.dataset.
}

sft "dropped" {
  base = model.base
  data = dedup.clean.rejects # ERROR: Wrong type | dedup.clean.rejects is a dataset of dropped rows; data takes one of packed rows.
}

sft "whole" {
  base = model.base
  data = dedup.clean # ERROR: Wrong type | dedup.clean is a whole stage; data takes a dataset of packed rows. Its outputs are dataset, rejects.
}

dedup "packed" {
  input = pack.train.dataset # ERROR: Wrong type | pack.train.dataset is a dataset of packed rows; input takes one of plain rows. Write dedup.clean.dataset.
}

dedup "rejects" {
  input = dedup.clean.rejects # ERROR: Wrong type | dedup.clean.rejects is a dataset of dropped rows; input takes one of plain rows. Write dedup.clean.dataset.
  decontaminate {
    against = [data.docs, pack.train.dataset] # ERROR: Wrong type | pack.train.dataset is a dataset of packed rows; against takes one of plain rows.
  }
}

module "m" {
  source = "./modules/rows"
  rows   = pack.train.dataset
}

sft "module" {
  base = model.base
  data = module.m.rows # ERROR: Wrong type | module.m.rows is a dataset of plain rows; data takes one of packed rows. First write pack "NAME" { input = module.m.rows ... }
}

locals {
  some = [data.docs, pack.train.dataset, module.m.dropped, model.base, 3]
}

dedup "list" {
  input = dedup.clean.dataset
  decontaminate {
    against = local.some # ERROR: Wrong type | Element 2 of local.some, pack.train.dataset, is a dataset of packed rows; against takes one of plain rows. Write dedup.clean.dataset. # ERROR: Wrong type | Element 3 of local.some is a dataset of dropped rows; against takes one of plain rows. # ERROR: Wrong type | Element 4 of local.some, model.base, is a model; against takes a dataset # ERROR: Wrong type | Element 5 of local.some is a number; against takes a dataset
  }
}

dedup "joined" {
  input = dedup.clean.dataset
  decontaminate {
    against = concat([data.docs], [dedup.clean.rejects]) # ERROR: Wrong type | Element 2 of the list, dedup.clean.rejects, is a dataset of dropped rows; against takes one of plain rows. Write dedup.clean.dataset.
  }
}
