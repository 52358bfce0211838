teacher "recorded" {
  provider = "journal"
  model_id = "SmolLM2-135M-Instruct"
  journal  = "answers.jsonl"
}

data "docs" {
  source = "docs/*.txt"
}

synth "cot" {
  teacher      = teacher.recorded
  documents    = data.docs
  method       = "document_to_dialogue"
  count        = 40
  self_correct = true
}
