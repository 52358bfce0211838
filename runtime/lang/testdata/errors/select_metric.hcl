model "base" { source = "./m" }
data "docs" { source = "./docs" }

eval "tried" {
  for_each = toset(["a", "b"])
  model    = model.base
  suite "qa" { data = data.docs }
}

select "best" {
  from   = eval.tried
  metric = "qa.nl" # ERROR: Unknown metric | eval.tried["a"] does not measure "qa.nl": suite "qa" has no "nl". Did you mean "nll"?
}
select "fine" {
  from   = eval.tried
  metric = "qa.nll"
}
