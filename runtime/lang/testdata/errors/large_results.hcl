locals {
  wide    = format("%1000d", 1)     # ERROR: Error in function call | widths and precisions have at most three digits
  spaces  = indent(1000, "a\nb")    # ERROR: Error in function call | an indent is at most 999 spaces
  product = setproduct(range(0, 101), range(0, 101)) # ERROR: Error in function call | more than 10000 combinations
  length  = length(3)               # ERROR: Invalid function argument | it counts what is in a list, a map or a string, and this is a number
}
