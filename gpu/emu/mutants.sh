#!/usr/bin/env bash
# gpu/emu/mutants.sh [fast|full] [PATTERN]: makes the mistakes of mutants.txt, one
# at a time, in a copy of the kernels, and tells which of them the tests notice on
# the emulated driver. It fails if one is missed. PATTERN chooses lines.
#
# What is compiled is kept in out/mutants, by content; what gpu/build.sh has
# compiled is taken from there. As many work at a time as there are processors,
# but at most four: PIPE_MUTANTS_JOBS. Those of the same tests are one's work,
# which first sees that these pass without a mistake.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
which=${1:-full}
pattern=${2:-.}
jobs=${PIPE_MUTANTS_JOBS:-$(nproc)}
jobs=$((jobs > 4 ? 4 : jobs))
out=$PWD/out/mutants
mkdir -p "$out"

eval "$(bash gpu/build.sh env)"
bash gpu/build.sh emu
go test -c -tags cuda -o "$out/gpu.test" ./gpu

# driver builds the emulated driver of the copy.
driver() { XDG_CACHE_HOME=$own/cache bash "$own/tree/gpu/build.sh" emu >"$own/build.log" 2>&1; }

# passes runs tests on the driver of the copy.
passes() {
	(cd gpu && PIPE_REQUIRE_CUDA=1 PIPE_CUDA_DRIVER=$own/tree/out/cuda/libcuda-emu.so \
		nice timeout 600 "$out/gpu.test" -test.run "$1" >"$own/test.log" 2>&1)
}

fresh() {
	mkdir -p "$own/tree/gpu"
	rm -rf "$own/tree/gpu"/*
	cp -r gpu/build.sh gpu/driver gpu/emu gpu/kernels "$own/tree/gpu"
}

trim() { sed 's/^ *//; s/ *$//' <<<"$1"; }

# chosen prints the lines of mutants.txt that were asked for.
chosen() {
	local speed file tests script
	while IFS='|' read -r speed file tests script; do
		speed=$(trim "$speed") file=$(trim "$file") tests=$(trim "$tests") script=$(trim "$script")
		[ "$which" = full ] || [ "$speed" = "$which" ] || continue
		grep -qE -e "$pattern" <<<"$file | $tests | $script" || continue
		printf '%s|%s|%s\n' "$tests" "$file" "$script"
	done < <(grep -v -e '^#' -e '^ *$' gpu/emu/mutants.txt) | sort
}

# work makes the mistakes on the standard input in a copy of its own.
work() {
	own=$out/$1
	local tests file script checked=
	mkdir -p "$own/cache/pipe/cuda"
	cp -alu "${XDG_CACHE_HOME:-$HOME/.cache}"/pipe/cuda/{emu,driver-*} "$own/cache/pipe/cuda" 2>/dev/null || true # another file system: compile again
	fresh
	driver || { cat "$own/build.log" >&2; return 1; }
	while IFS='|' read -r tests file script; do
		fresh
		if [ "$checked" != "<$tests>" ]; then
			driver
			passes "$tests" || { cat "$own/test.log"; echo "$tests fails without a mistake" >&2; return 1; }
			! grep -q 'no tests to run' "$own/test.log" || { echo "$tests chooses no tests" >&2; return 1; }
			checked="<$tests>"
		fi
		sed -i "$script" "$own/tree/gpu/kernels/$file"
		if cmp -s "gpu/kernels/$file" "$own/tree/gpu/kernels/$file"; then
			echo "mutants.txt: $file: nothing to change: $script" >&2
			return 1
		fi
		if ! driver; then
			cat "$own/build.log" >&2
			echo "mutants.txt: $file does not compile: $script" >&2
			return 1
		fi
		if passes "$tests"; then
			echo "MISSED  $file  $script"
		else
			echo "caught  $file  $script"
		fi
	done
}

chosen >"$out/chosen"
total=$(wc -l <"$out/chosen")
[ "$total" -gt 0 ] || { echo "mutants.txt has no line for $which $pattern" >&2; exit 1; }
pids=()
for k in $(seq 0 $((jobs - 1))); do # whole groups of tests, in turn
	awk -F'|' -v k="$k" -v jobs="$jobs" '$1 != last { g++; last = $1 } g % jobs == k' "$out/chosen" >"$out/chosen.$k"
	(work "$k" <"$out/chosen.$k" >"$out/log.$k") &
	pids+=($!)
done
failed=0
for p in "${pids[@]}"; do wait "$p" || failed=1; done
cat "$out"/log.*
caught=$(cat "$out"/log.* | grep -c '^caught' || :) missed=$(cat "$out"/log.* | grep -c '^MISSED' || :)
rm -f "$out"/log.* "$out"/chosen*
echo "$caught caught, $missed missed"
[ "$failed" = 0 ] && [ "$missed" = 0 ] && [ "$caught" = "$total" ]
