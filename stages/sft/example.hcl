model "base" {
  source = "embedded://tiny"
}

data "rows" {
  source = "./rows.jsonl"
}

pack "train" {
  input   = data.rows
  model   = model.base
  seq_len = 256
}

sft "tuned" {
  base   = model.base
  data   = pack.train.dataset
  epochs = 2
  lr     = 2e-4

  adapter "dora" {
    rank    = 8
    alpha   = 16
    targets = ["q_proj", "v_proj"]
    dropout = 0.05
  }
}
