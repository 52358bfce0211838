data "docs" { source = "./docs" }

locals {
  text = jsonencode(data.docs) # ERROR: Error in function call | a reference to a block cannot be encoded
}
