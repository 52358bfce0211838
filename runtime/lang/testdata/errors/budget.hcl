pipeline "p" {
  budget_time = "soon" # ERROR: Invalid value | budget_time is "soon"; must be a duration above 0
}
teacher "t" {
  provider      = "openai"
  endpoint      = "http://localhost:8000/v1"
  model_id      = "big"
  budget_usd    = 5  # ERROR: Invalid value | give usd_per_million_input_tokens
  budget_tokens = -1 # ERROR: Invalid value | is -1; must be 0 or more
}
teacher "u" {
  provider                      = "openai"
  endpoint                      = "http://localhost:8000/v1"
  model_id                      = "big"
  usd_per_million_output_tokens = "dear" # ERROR: Wrong type
}
