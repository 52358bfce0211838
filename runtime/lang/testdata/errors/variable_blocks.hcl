variable "a" {
  default   = 1
  sensitive = "perhaps" # ERROR: Wrong type | sensitive takes a constant bool.
  rule {} # ERROR: Unknown block | A variable block holds validation
}

variable "b" {
  default = 1
  validation {
    condition     = true
    error_message = "x"
    message       = "x" # ERROR: Unknown attribute | A validation block has condition and error_message, not "message".
    more {} # ERROR: Unknown block | A validation block has condition and error_message only.
  }
}
