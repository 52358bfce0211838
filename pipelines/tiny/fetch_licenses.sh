#!/bin/sh
# Makes licenses.jsonl.gz, the text that embedded://tiny was pretrained on, from
# npm's spdx-license-list (its list is CC0-1.0; every licence text may be
# copied verbatim). Needs npm, python3. Usage: ./fetch_licenses.sh [OUT]
set -eu
out=${1:-$(dirname "$0")/licenses.jsonl.gz}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && npm pack --silent spdx-license-list@6.12.0 >/dev/null && tar xzf spdx-license-list-6.12.0.tgz)
python3 - "$work/package/licenses" "$out" <<'PY'
import glob, gzip, json, os, re, sys
rows, seen = [], set()
for path in sorted(glob.glob(os.path.join(sys.argv[1], "*.json"))):
    d = json.load(open(path, encoding="utf-8"))
    text = d["licenseText"].replace("\r\n", "\n").strip()
    key = re.sub(r"\W+", " ", text.lower())
    if len(text) < 200 or key in seen:  # the same text under two names counts once
        continue
    if sum(ord(c) > 127 for c in text) > 0.02 * len(text):  # licences in other languages
        continue
    seen.add(key)
    rows.append({"id": os.path.basename(path)[:-5], "name": d["name"], "text": text})
with open(sys.argv[2], "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as f:
    for r in rows:
        f.write((json.dumps(r, ensure_ascii=False, sort_keys=True) + "\n").encode())
print(len(rows), "licences,", sum(len(r["text"]) for r in rows), "characters")
PY
