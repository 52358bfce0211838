model "base" {
  source = "embedded://tiny"
}

data "pairs" {
  source = "./pairs.jsonl"
}

dpo "final" {
  base = model.base
  data = data.pairs
  loss = "sigmoid"
  beta = 0.1

  adapter "lora" {
    rank    = 8
    targets = ["q_proj", "v_proj"]
  }
}
