data "docs" { source = "./docs" }

dedup "swept" {
  for_each = toset(["a"])
  input    = data.docs
  note     = each.name # ERROR: Invalid reference | Write each.key or each.value.
}
