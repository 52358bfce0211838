data "legal" {
  source = "./legal.jsonl"
}

data "general" {
  source = "./general.jsonl"
}

mix "train" {
  source "legal" {
    input  = data.legal
    weight = 0.9
  }

  source "general" {
    input      = data.general
    weight     = 0.1
    max_repeat = 2
  }
}
