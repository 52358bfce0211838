model "base" {
  source = "embedded://tiny"
}

data "texts" {
  source = "./texts.jsonl"
}

eval "sweep" {
  for_each = { small = 1, large = 2 }
  model    = model.base

  suite "texts" {
    data  = data.texts
    type  = "perplexity"
    limit = 100 * each.value
  }
}

select "best" {
  from   = eval.sweep
  metric = "texts.nll"
  mode   = "min"
}
