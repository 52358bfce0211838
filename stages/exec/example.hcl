data "rows" { source = "./rows.jsonl" }

exec "sorted" {
  command  = ["sh", "-c", "sort -u $IN_rows > $OUT/sorted"]
  inputs   = { rows = data.rows }
  datasets = ["sorted"]
}

dedup "clean" {
  input = exec.sorted.sorted
}
