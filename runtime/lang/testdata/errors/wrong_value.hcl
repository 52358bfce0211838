model "base" { source = "./m" }
data "docs" { source = "./docs" }

pack "train" {
  input   = data.docs
  model   = model.base
  seq_len = 8.5 # ERROR: Invalid value | seq_len is 8.5; it must be a whole number.
}

pack "huge" {
  input   = data.docs
  model   = model.base
  seq_len = 1e30 # ERROR: Invalid value | out of range
}

pack "word" {
  input   = data.docs
  model   = model.base
  seq_len = "many" # ERROR: Wrong type | this is a string; seq_len takes a whole number.
}

sft "a" {
  base = model.base
  data = data.docs
  lr   = [1e-4] # ERROR: Wrong type | this is a list; lr takes a number.
  adapter "lora" {
    rank    = 8
    targets = "q_proj" # ERROR: Wrong type | this is a string; targets takes a list of strings. Write it in brackets: targets = ["..."].
  }
}

