variable "docs" {
  type        = dataset
  description = "Rows to clean"
}
variable "thresh" {
  type    = number
  default = 1
  validation {
    condition     = var.thresh <= 1
    error_message = "too high"
  }
}
variable "sets" {
  type    = list(dataset)
  default = []
}
output "rows" { value = var.docs }
