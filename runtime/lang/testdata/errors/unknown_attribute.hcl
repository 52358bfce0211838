data "docs" { source = "./docs" }

dedup "clean" {
  input      = data.docs
  treshold   = 0.9 # ERROR: Unknown attribute | Did you mean threshold?
  zzzzzzzz   = 1   # ERROR: Unknown attribute | It has embedder, input, note, options, threshold, weights.
  depend_on  = []  # ERROR: Unknown attribute | Did you mean depends_on?
  decontaminate {
    against = [data.docs]
    ngrams  = 8 # ERROR: Unknown attribute | decontaminate has no attribute "ngrams". Did you mean ngram?
  }
}
