model "base" { source = "./m" }
model "four" {
  source   = "./m"
  quantize = "nf4"
}
data "docs" { source = "./docs" }
pack "rows" {
  input   = data.docs
  model   = model.base
  seq_len = 64
}

sft "whole" {
  base = model.base
  data = pack.rows.dataset
  adapter "none" { rank = 1 }
}
sft "first" {
  base = sft.whole.model
  data = pack.rows.dataset
  adapter "lora" { rank = 1 }
}
sft "on" {
  base = sft.first.model
  data = pack.rows.dataset
}
sft "second" {
  base = sft.on.model
  data = pack.rows.dataset
  adapter "lora" { rank = 1 } # ERROR: The base has an adapter | sft.on carries an adapter, which is trained on. Leave out the adapter block, or start from sft.whole.
}
sft "bits" {
  base = model.four
  data = pack.rows.dataset
  adapter "none" { rank = 1 } # ERROR: Weights in 4 bits cannot be trained | model.four has quantize = "nf4". Take an adapter "lora" or "dora"
}

export "fine" {
  model   = sft.second.model
  formats = ["peft"]
}
export "weights" {
  model   = sft.whole.model
  formats = ["safetensors", "peft"] # ERROR: No adapter | peft is an adapter, and sft.whole has none: all its weights are its own. Take safetensors.
}
export "base" {
  model   = model.base
  formats = ["peft"] # ERROR: No adapter | peft is an adapter, and model.base has none
}
