model "base" { source = "./m" }
data "docs" { source = "./docs" }

eval "final" {
  model = model.base
  suite "qa" { data = data.docs }
  suite "reading" { data = data.docs }
  gate "suite" {
    condition     = self.metrics["readin.acc"] > 0.5 # ERROR: Unknown metric | self has no metric "readin.acc": there is no suite "readin". Did you mean "reading"?
    error_message = "low"
  }
  gate "others" {
    condition     = baseline.metrics["quiz.acc"] < 1 && base.metrics["qa.acc"] < 1 # ERROR: Unknown metric | baseline has no metric "quiz.acc": there is no suite "quiz". The suites are qa, reading.
    error_message = "nll is ${base.metrics["qa.nl"]}" # ERROR: Unknown metric | base has no metric "qa.nl": suite "qa" has no "nl". Did you mean "nll"?
  }
  gate "dots" {
    condition     = self.metrics.qa > 0.5 # ERROR: Unknown metric | a name has two parts, SUITE.METRIC, and the suites are qa, reading.
    error_message = "low"
  }
  gate "computed" {
    condition     = self.metrics["${"qa"}.what"] > 0.5
    error_message = "low"
  }
}
