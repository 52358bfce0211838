data "docs" {
  source    = "./docs/*.txt"
  split     = "paragraph"
  max_chars = 2000
}

data "questions" {
  source = "./questions.jsonl"
  map    = { question = "q", answer = "a" }
}
