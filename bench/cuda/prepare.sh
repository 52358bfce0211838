#!/usr/bin/env bash
# bench/cuda/prepare.sh: build what bench/cuda/device.sh runs on a machine that
# has a device, and no Go and no compiler, into out/cuda-run/. Its argument is the
# most MiB that all of it may have, 50 by default.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
limit=${1:-50}
run=out/cuda-run
command -v xz >/dev/null || {
	echo "bench/cuda/prepare.sh: xz is not installed: apt-get install xz-utils" >&2
	exit 1
}

bash gpu/build.sh kernels >/dev/null
eval "$(bash gpu/build.sh env)"
rm -rf "$run"
mkdir -p "$run"
nice go build -trimpath -tags cuda -ldflags '-s -w' -o "$run/bench-cuda" ./bench/cuda
nice go build -trimpath -tags cuda -ldflags '-s -w' -o "$run/pipe-cuda" ./cmd/pipe
# The tests look for their fixtures where they were compiled: device.sh makes
# that path lead to the checkout.
nice go test -c -tags cuda -ldflags '-s -w' -o "$run/gpu.test" ./gpu
pwd >"$run/root"

for program in bench-cuda pipe-cuda gpu.test; do
	newest=$(grep -aoE 'GLIBC_2\.[0-9]+' "$run/$program" | sort -uV | tail -1)
	printf '%-12s %4d MiB, needs %s\n' "$program" $(($(stat -c %s "$run/$program") >> 20)) "$newest"
done
# One archive: they hold the same kernels, which it keeps once.
tar -C "$run" -c bench-cuda pipe-cuda gpu.test | xz -T1 --lzma2=preset=1,dict=192MiB >"$run/programs.tar.xz"
rm "$run/bench-cuda" "$run/pipe-cuda" "$run/gpu.test"
size=$(du -sm "$run" | cut -f1)
if [ "$size" -gt "$limit" ]; then
	echo "bench/cuda/prepare.sh: $run has $size MiB, more than $limit" >&2
	exit 1
fi
echo "$run: $size MiB"
