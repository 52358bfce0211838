variable "missing" {} # ERROR: Missing value | give --var missing=VALUE, set PIPE_VAR_missing

variable "number" {
  type    = number
  default = "many" # ERROR: Wrong type | Variable "number" takes a number
}

variable "reference" {
  default = local.x # ERROR: Variables not allowed
}

variable "typo" {
  default = 1
  defualt = 1 # ERROR: Unknown attribute | Did you mean default?
}

variable "positive" {
  default = -1 # ERROR: Invalid value for variable | var.positive: must be positive, not -1
  validation {
    condition     = var.positive > 0
    error_message = "must be positive, not ${var.positive}"
  }
}

variable "half" {
  default = 1
  validation { # ERROR: Missing attribute | Write validation
    condition = true
  }
}

variable "foreign" {
  default = 1
  validation {
    condition     = local.x > 1 # ERROR: Invalid reference | A validation may refer to var.foreign only.
    error_message = "x"
  }
}

variable "token" {
  default   = "secret"
  sensitive = true
}

data "docs" {
  source = "./${var.token}" # ERROR: Sensitive value | source would be stored with the result
}

dedup "fine" {
  input = data.docs
  note  = var.token
}

locals {
  x = 1
}
