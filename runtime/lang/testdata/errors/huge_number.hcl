locals {
  x = 1e999999999 # ERROR: Number out of range | exponent
}
