model "base" {
  source = "embedded://tiny"
}

data "questions" {
  source = "./questions.jsonl"
}

data "texts" {
  source = "./texts.jsonl"
}

eval "base" {
  model = model.base

  suite "questions" {
    data       = data.questions
    type       = "generate"
    max_tokens = 32
    normalizer = "text"
  }

  suite "texts" {
    data   = data.texts
    type   = "perplexity"
    window = 256
  }

  needle {
    lengths  = [128, 256]
    depths   = [0, 0.5, 1]
    per_cell = 4
    digits   = 4
    format   = "plain"
  }

  gate "sane" {
    condition     = self.metrics["texts.nll"] < 8
    error_message = "the model predicts text worse than chance"
  }
}
