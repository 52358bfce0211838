model "base" { source = "./m" }
data "docs" { source = "./docs" }

eval "final" {
  model = model.base
  suite "qa" { data = data.docs }
  gate "typo" {
    condition     = self.metric["qa.acc"] > 0.5 # ERROR: Invalid reference | Write self.metrics["SUITE.METRIC"].
    error_message = "low"
  }
  gate "handle" {
    condition     = data.docs == 1 # ERROR: Invalid reference | A gate judges numbers
    error_message = "low"
  }
  gate "half" { # ERROR: Missing attribute | gate "half" needs error_message
    condition = true
  }
  gate "unknown" {
    condition     = var.x # ERROR: Undeclared reference
    error_message = "low"
  }
}
