locals {
  now   = timestamp()   # ERROR: Error in function call | the time changes with every run
  id    = uuid()        # ERROR: Error in function call | artifacts are already named by their content
  crypt = bcrypt("x")   # ERROR: Error in function call | its salt changes
  home  = env("HOME")   # ERROR: Invalid function argument | "HOME" is not declared; write pipeline "NAME" { env = ["HOME"] }
  typo  = uper("x")     # ERROR: Call to unknown function | upper
  none  = file("none")  # ERROR: Invalid function argument | none
}
