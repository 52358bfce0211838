variable "docs" { type = dataset }
dedup "d" { input = var.docs }
output "rows" { value = dedup.d.dataset }
