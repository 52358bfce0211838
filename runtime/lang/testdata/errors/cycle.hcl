data "docs" { source = "./docs" }

dedup "a" {
  input = dedup.c.dataset # ERROR: Dependency cycle | dedup.a → dedup.c → dedup.b → dedup.a
}

dedup "b" {
  input = dedup.a.dataset
}

dedup "c" {
  input = dedup.b.dataset
}

# What needs the cycle is not reported for that, but for its own mistakes.
dedup "after" {
  input    = dedup.a.dataset
  treshold = 1 # ERROR: Unknown attribute
}

dedup "self" {
  input = dedup.self.rejects # ERROR: Dependency cycle | dedup.self → dedup.self
}

locals {
  x = local.y + 1 # ERROR: Dependency cycle | local.x → local.y → local.x
  y = local.x + 1
}

dedup "waits" {
  input      = data.docs
  depends_on = [dedup.for] # ERROR: Dependency cycle | dedup.waits → dedup.for → dedup.waits
}

dedup "for" {
  input      = data.docs
  depends_on = [dedup.waits]
}
