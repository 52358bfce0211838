#!/usr/bin/env bash
# gpu/emu/mutants.sh [fast|full] [PATTERN]: makes the mistakes of mutants.txt, one
# at a time, in a copy of the kernels, and tells which of them the tests notice on
# the emulated driver. It fails if one is missed. PATTERN chooses lines.
#
# What is compiled is kept in out/mutants, by content; what gpu/build.sh has
# compiled is taken from there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
which=${1:-full}
pattern=${2:-.}
out=$PWD/out/mutants
mkdir -p "$out"

eval "$(bash gpu/build.sh env)"
bash gpu/build.sh emu
mkdir -p "$out/cache/pipe/cuda"
cp -alu "${XDG_CACHE_HOME:-$HOME/.cache}"/pipe/cuda/{emu,driver-*} "$out/cache/pipe/cuda" 2>/dev/null || true # another file system: compile again
go test -c -tags cuda -o "$out/gpu.test" ./gpu

# driver builds the emulated driver of the copy.
driver() { XDG_CACHE_HOME=$out/cache bash "$out/tree/gpu/build.sh" emu >"$out/build.log" 2>&1; }

# passes runs tests on the driver of the copy.
passes() {
	(cd gpu && PIPE_REQUIRE_CUDA=1 PIPE_CUDA_DRIVER=$out/tree/out/cuda/libcuda-emu.so \
		nice timeout 300 "$out/gpu.test" -test.run "$1" >"$out/test.log" 2>&1)
}

fresh() {
	mkdir -p "$out/tree/gpu"
	rm -rf "$out/tree/gpu"/*
	cp -r gpu/build.sh gpu/driver gpu/emu gpu/kernels "$out/tree/gpu"
}

trim() { sed 's/^ *//; s/ *$//' <<<"$1"; }

fresh
driver || { cat "$out/build.log" >&2; exit 1; }
caught=0 missed=0 checked=
while IFS='|' read -r speed file tests script; do
	speed=$(trim "$speed") file=$(trim "$file") tests=$(trim "$tests") script=$(trim "$script")
	[ "$which" = full ] || [ "$speed" = "$which" ] || continue
	grep -qE -e "$pattern" <<<"$file | $tests | $script" || continue
	fresh
	case $checked in
	*"<$tests>"*) ;;
	*)
		driver
		passes "$tests" || { cat "$out/test.log"; echo "$tests fails without a mistake" >&2; exit 1; }
		grep -q 'no tests to run' "$out/test.log" && { echo "$tests chooses no tests" >&2; exit 1; }
		checked="$checked<$tests>"
		;;
	esac
	sed -i "$script" "$out/tree/gpu/kernels/$file"
	if cmp -s "gpu/kernels/$file" "$out/tree/gpu/kernels/$file"; then
		echo "mutants.txt: $file: nothing to change: $script" >&2
		exit 1
	fi
	if ! driver; then
		cat "$out/build.log" >&2
		echo "mutants.txt: $file does not compile: $script" >&2
		exit 1
	fi
	if passes "$tests"; then
		missed=$((missed + 1))
		echo "MISSED  $file  $script"
	else
		caught=$((caught + 1))
		echo "caught  $file  $script"
	fi
done < <(grep -v -e '^#' -e '^ *$' gpu/emu/mutants.txt)
echo "$caught caught, $missed missed"
[ $missed -eq 0 ]
