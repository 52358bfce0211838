variable "rows" { type = dataset }
data "docs" { source = "./docs" }
dedup "inside" { input = var.rows } # ERROR: Wrong type | var.rows is a dataset of packed rows; input takes one of plain rows.
dedup "fine" { input = data.docs }
output "rows" { value = dedup.fine.dataset }
output "dropped" { value = dedup.fine.rejects }
