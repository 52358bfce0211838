# A few lines that ask for more than any machine has.
locals {
  page = join("", [for i in range(0, 1024) : "0123456789abcdef"])
  book = [for i in range(0, 1024) : [for j in range(0, 1024) : local.page]]                     # ERROR: Too large | This could make a value of more than 256 MiB
  grid = [for i in range(0, 1024) : [for j in range(0, 1024) : [for k in range(0, 1024) : i]]] # ERROR: Too large | These loops could take more than 20 million steps
  fine = [for p in [for i in range(0, 1024) : "${i}"] : upper(p) if p != ""]
}
