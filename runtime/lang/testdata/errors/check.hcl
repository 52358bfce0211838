data "docs" { source = "./docs" }
model "base" { source = "./m" }

dedup "clean" {
  input     = data.docs
  threshold = 1.5 # ERROR: Invalid value | threshold is 1.5; must be above 0 and at most 1.
  decontaminate {
    against = [data.docs]
    ngram   = 0 # ERROR: Invalid value | decontaminate.ngram is 0
  }
}

dedup "default" { # ERROR: Invalid dedup | dedup "default": it compares nothing.
  input    = data.docs
  embedder = "none"
}

dedup "unset" {
  input = data.docs
  decontaminate { # ERROR: Invalid value | decontaminate.ngram is 0
    against = [data.docs]
  }
}

mix "train" {
  source "a" {
    input  = data.docs
    weight = 1
  }
  source "b" {
    input  = data.docs
    weight = -1 # ERROR: Invalid value | source["b"].weight is -1
  }
}

sft "sweep" {
  for_each = matrix({ rank = [0, 8] })
  base     = model.base
  data     = data.docs
  adapter "lora" {
    rank = each.value.rank # ERROR: Invalid value | adapter.rank is 0
  }
}

model "empty" {
  source = "" # ERROR: Invalid value | source is empty
}

model "odd" {
  source   = "./m"
  quantize = "int4" # ERROR: Invalid value | quantize is "int4"; must be "nf4" or left out.
}

teacher "far" {
  provider    = "openai" 
  temperature = 7         # ERROR: Invalid value | temperature is 7
  endpoint    = "http://localhost:8000/v1"
  model_id    = "m"
}
