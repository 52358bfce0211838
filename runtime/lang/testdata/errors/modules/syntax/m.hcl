dedup "x" {
  input = = 1 # ERROR: Invalid expression | Reached by module.a
}
