data "rows" {
  source = "./rows.jsonl"
}

data "bench" {
  source = "./bench.jsonl"
}

dedup "clean" {
  input     = data.rows
  threshold = 0.92

  decontaminate {
    against = [data.bench]
    ngram   = 8
  }
}
