pipeline "p" {
  seed  = -1 # ERROR: Invalid value | seed is -1; it must not be negative.
  sed   = 2  # ERROR: Unknown attribute | Did you mean seed?
  env   = [local.x] # ERROR: Wrong type | names of environment variables
}
