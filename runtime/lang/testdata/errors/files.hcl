locals {
  empty     = file("")                                # ERROR: Invalid function argument | the path is empty
  folder    = file(".")                               # ERROR: Invalid function argument | is not a regular file
  latin1    = file("latin1.txt")                      # ERROR: Invalid function argument | latin1.txt is not UTF-8 text
  variables = templatefile("list.tmpl", 3)            # ERROR: Invalid function argument | the variables of a template are an object
  undefined = templatefile("list.tmpl", {})           # ERROR: Invalid function argument | list.tmpl
  list      = templatefile("list.tmpl", { x = [1] })  # ERROR: Invalid function argument | does not make a string
}
