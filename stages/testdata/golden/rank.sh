sort "$IN_rows" > "$OUT/ranked"
: > "$OUT/log"
