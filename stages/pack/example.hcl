model "base" {
  source = "embedded://tiny"
}

data "rows" {
  source = "./rows.jsonl"
}

pack "train" {
  input   = data.rows
  model   = model.base
  seq_len = 512
}
