model "base" { source = "./m" }
data "docs" { source = "./docs" }
teacher "t" {
  provider = "local"
  model    = model.base
}

pack "train" {
  input   = data.docs
  model   = model.base
  seq_len = 8
}

sft "a" {
  base = pack.train.dataset # ERROR: Wrong type | pack.train.dataset is a dataset of packed rows; base takes a model.
  data = teacher.t          # ERROR: Wrong type | teacher.t is a teacher; data takes a dataset of packed rows.
}

sft "b" {
  base = pack.train  # ERROR: Wrong type | pack.train is a whole stage; base takes a model. Its outputs are dataset.
  data = pack.train  # ERROR: Wrong type | Write pack.train.dataset.
}

sft "c" {
  base = "model.base" # ERROR: Wrong type | this is a string; base takes a model. Write a reference without quotes, such as model.NAME.
  data = 3            # ERROR: Wrong type | this is a number; data takes a dataset of packed rows. Write a reference, such as KIND.NAME.dataset.
}

sft "swept" {
  for_each = toset(["x"])
  base     = model.base
  data     = pack.train.dataset
}

export "e" {
  model   = sft.swept # ERROR: Wrong type | sft.swept is a swept stage; model takes a model. Use one instance, such as sft.swept["x"], or for_each = sft.swept and each.value.
  formats = ["peft"]
}

dedup "d" {
  input = data.docs
  decontaminate {
    against = [
      data.docs,
      model.base, # ERROR: Wrong type | model.base is a model; against takes a dataset.
    ]
  }
}

dedup "e" {
  input     = data.docs
  threshold = data.docs # ERROR: Wrong type | data.docs is a dataset; threshold takes a number.
  decontaminate {
    against = data.docs # ERROR: Wrong type | data.docs is a dataset; against takes a list of datasets. Write [data.docs].
  }
}

select "best" {
  from   = data.docs # ERROR: Wrong type | data.docs is a dataset; from takes a swept stage.
  metric = "x.acc"
}

select "second" {
  from   = pack.train # ERROR: Wrong type | from takes a stage with the outputs metrics and model, such as eval.NAME; this one has dataset.
  metric = "x.acc"
}
