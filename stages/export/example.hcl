model "base" {
  source = "embedded://tiny"
}

export "base" {
  model   = model.base
  formats = ["safetensors", "gguf:f16", "gguf:q8_0"]
  name    = "tiny"

  card = {
    made_for = "an example"
  }
}
