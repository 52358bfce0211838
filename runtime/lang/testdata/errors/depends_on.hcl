data "docs" { source = "./docs" }

dedup "clean" {
  input      = data.docs
  depends_on = data.docs # ERROR: Wrong type | depends_on takes a list of references, such as [data.docs].
}
