#!/usr/bin/env bash
# gpu/build.sh [SUBCOMMAND...]: what the CUDA backend needs beside the go command.
# No GPU, no driver and no CUDA toolkit are needed: the compiler and its headers
# come from PyPI.
#
#   toolkit   fetch nvcc and the headers (PIPE_CUDA_TOOLKIT=system: use those installed)
#   driver    build libcuda.a, the trampolines that pipe is linked with
#   kernels   compile gpu/kernels/*.cu for sm_80 (sm_89 those of 8 bits), sm_90a and as PTX, and print what
#             each kernel uses
#             (kernels --strict: more than 80 bytes of registers that spill, to and fro, are an error)
#   emu       build out/cuda/libcuda-emu.so, a driver that runs the kernels on the processor
#   pipe      build out/pipe-cuda
#   test ...  go test -tags cuda ./gpu/... on the emulated driver; the rest goes to go test
#   tests     build the tests of gpu as programs, out/cuda/*.test, for another machine
#   check-dl DIR...  compare what gpu/dl declares with cublasLt.h and nccl.h in these directories
#   env       print the settings for go build -tags cuda, for eval in a shell
#
# Without a subcommand: toolkit, kernels, emu and pipe. What was downloaded and
# compiled is kept in ${XDG_CACHE_HOME:-~/.cache}/pipe/cuda, by content.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
out=$root/out/cuda
cache=${XDG_CACHE_HOME:-$HOME/.cache}/pipe/cuda
version=13.0

# The wheels, with the sha256 of those for x86-64 and for arm64.
wheels='
nvidia-cuda-nvcc==13.0.88 56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03 c7ff28f86a24effdc6c034fa15230c549a273e4771b10a7fec14996f8cf3307f
nvidia-nvvm==13.0.88 c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0 c4376a291d72d22a315d9d2f69bdae8f8cd83a627f75bad395cee49a0fe65dc1
nvidia-cuda-crt==13.0.88 2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4 ee2ea2a97073e02ee62bb27841f437332be2c248e3eac013df07997ada39c003
nvidia-cuda-runtime==13.0.96 7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548 ef9bcbe90493a2b9d810e43d249adb3d02e98dd30200d86607d8d02687c43f55
'

die() {
	printf 'gpu/build.sh: %s\n' "$*" >&2
	exit 1
}

need() {
	command -v "$1" >/dev/null || die "$1 is not installed: $2"
}

# digest of what stands on the standard input.
digest() { sha256sum | cut -c1-20; }

# alone COMMAND...: one at a time, as several checkouts share the cache.
alone() {
	mkdir -p "$cache"
	if ! command -v flock >/dev/null; then
		"$@"
		return
	fi
	exec 9>"$cache/lock"
	flock 9
	"$@"
	exec 9>&-
}

# fetch unpacks the wheels into $1.
fetch() {
	[ ! -f "$1/complete" ] || return 0
	need python3 "apt-get install python3 python3-pip"
	python3 -m pip --version >/dev/null 2>&1 || die "python3 has no pip: apt-get install python3-pip"
	local column
	case $(uname -sm) in
	'Linux x86_64') column=2 ;;
	'Linux aarch64') column=3 ;;
	*) die "there are no wheels of nvcc for $(uname -sm)" ;;
	esac
	local tmp file
	tmp=$(mktemp -d "$cache/toolkit.XXXXXX")
	awk -v c=$column 'NF { print $1, "--hash=sha256:" $c }' <<<"$wheels" >"$tmp/wheels.txt"
	echo "fetching nvcc $version (100 MB)" >&2
	python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
		--dest "$tmp/wheels" -r "$tmp/wheels.txt" || die "pip could not fetch the wheels of nvcc"
	for file in "$tmp"/wheels/*.whl; do
		grep -qF "$(sha256sum "$file" | cut -d' ' -f1)" "$tmp/wheels.txt" || die "$file is not the wheel that is pinned"
		python3 -m zipfile -e "$file" "$tmp/all"
	done
	mv "$tmp/all/nvidia/cu13" "$tmp/toolkit"
	chmod +x "$tmp"/toolkit/bin/* "$tmp"/toolkit/nvvm/bin/*
	for file in bin/nvcc bin/ptxas bin/fatbinary nvvm/bin/cicc; do
		[ -x "$tmp/toolkit/$file" ] || die "the wheels have no $file"
	done
	for file in include/cuda.h include/crt/host_config.h nvvm/libdevice/libdevice.10.bc; do
		[ -f "$tmp/toolkit/$file" ] || die "the wheels have no $file"
	done
	touch "$tmp/toolkit/complete"
	rm -rf "$1"
	mv "$tmp/toolkit" "$1"
	rm -rf "$tmp"
}

# toolkit sets $toolkit and $nvcc.
toolkit() {
	[ -z "${toolkit:-}" ] || return 0
	if [ "${PIPE_CUDA_TOOLKIT:-}" != system ]; then
		[ -z "${PIPE_CUDA_TOOLKIT:-}" ] || die "PIPE_CUDA_TOOLKIT=$PIPE_CUDA_TOOLKIT: only system is known"
		toolkit=$cache/toolkit-$(digest <<<"$wheels")
		alone fetch "$toolkit"
		nvcc=$toolkit/bin/nvcc
	else
		if [ -n "${CUDA_HOME:-}" ]; then
			nvcc=$CUDA_HOME/bin/nvcc
		else
			nvcc=$(command -v nvcc) || die "PIPE_CUDA_TOOLKIT=system: there is no nvcc in PATH, and CUDA_HOME is not set"
		fi
		[ -x "$nvcc" ] || die "PIPE_CUDA_TOOLKIT=system: there is no $nvcc"
		toolkit=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
	fi
	local release
	release=$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p')
	case $release in
	12.* | 13.*) ;;
	*) die "$nvcc is of CUDA ${release:-(unknown)}: 12.x or 13.x is needed" ;;
	esac
}

# driver builds libcuda.a. It lies in the cache, under the hash of its sources:
# the go command notices when the path changes, and checkouts share what it built.
driver() {
	[ -z "${driver:-}" ] || return 0
	need gcc "apt-get install gcc libc6-dev"
	need ar "apt-get install binutils"
	driver=$cache/driver-$(cat gpu/driver/src/* gpu/driver/include/* | digest)
	alone trampolines
	mkdir -p "$out"
	cmp -s "$driver/libcuda.a" "$out/libcuda.a" || cp "$driver/libcuda.a" "$out/libcuda.a"
}

trampolines() {
	[ ! -f "$driver/libcuda.a" ] || return 0
	local tmp
	tmp=$(mktemp -d "$cache/driver.XXXXXX")
	mkdir "$tmp/include"
	cp gpu/driver/include/*.h "$tmp/include"
	bash gpu/driver/src/trampolines.sh gpu/driver/src/symbols.txt >"$tmp/trampolines.S"
	gcc -c -o "$tmp/trampolines.o" "$tmp/trampolines.S"
	gcc -c -O2 -Wall -fPIC -I "$tmp/include" -o "$tmp/load.o" gpu/driver/src/load.c
	ar rcsD "$tmp/libcuda.a" "$tmp/trampolines.o" "$tmp/load.o"
	rm -rf "$driver"
	mv "$tmp" "$driver"
}

# settings exports what cgo needs.
settings() {
	toolkit
	driver
	export CGO_ENABLED=1
	export CGO_CFLAGS="-O2 -I$driver/include -I$toolkit/include"
	export CGO_LDFLAGS="-O2 -L$driver -ldl -lpthread"
}

# together FUNCTION ARGUMENT...: FUNCTION of each argument, as many at a time as there
# are processors, but at most four; fails if one of them did.
together() {
	local most f=$1 running=0 status=0 x
	most=$(nproc 2>/dev/null || echo 2)
	[ "$most" -le 4 ] || most=4
	shift
	for x; do
		if [ "$running" -eq "$most" ]; then
			wait -n || status=1
			running=$((running - 1))
		fi
		"$f" "$x" &
		running=$((running + 1))
	done
	for ((; running > 0; running--)); do wait -n || status=1; done
	return $status
}

# kernel CU sets $name, $flags, and $entry: where what is compiled of it is kept.
kernel() {
	local oldest=80
	name=$(basename "$1" .cu)
	case $name in
	*fp8*) oldest=89 ;; # numbers of 8 bits begin there
	esac
	flags=(-O3 -std=c++17 -gencode arch=compute_$oldest,code=sm_$oldest -gencode arch=compute_90a,code=sm_90a
		-gencode arch=compute_$oldest,code=compute_$oldest -fmad=false -Xptxas -v -I gpu/kernels)
	entry=$cache/kernels/$name-$( (printf '%s\n' "$nvcc" "${flags[@]}" && cat "$1" gpu/kernels/*.cuh) | digest)
}

compile_kernel() {
	local name flags entry
	kernel "$1"
	[ ! -f "$entry.fatbin" ] || return 0
	echo "nvcc $1" >&2
	if ! nice "$nvcc" -fatbin "${flags[@]}" -o "$entry.$$" "$1" >"$entry.log.$$" 2>&1; then
		grep -v '^ptxas info' "$entry.log.$$" >&2 || true
		rm -f "$entry.$$" "$entry.log.$$"
		return 1
	fi
	grep -E 'warning|error' "$entry.log.$$" >&2 || true
	mv "$entry.log.$$" "$entry.log"
	mv "$entry.$$" "$entry.fatbin"
}

# kernels [--strict]: $out/NAME.fatbin, and the same in gpu/fatbin for go:embed.
kernels() {
	local strict=
	case ${1:-} in
	--strict) strict=1 ;;
	?*) die "kernels $1: only --strict is known" ;;
	esac
	toolkit
	need g++ "apt-get install g++"
	shopt -s nullglob
	local cu all=(gpu/kernels/*.cu) name flags entry failed=
	mkdir -p "$out" gpu/fatbin "$cache/kernels"
	together compile_kernel "${all[@]}" || failed=1
	for cu in "${all[@]}"; do
		kernel "$cu"
		[ -f "$entry.fatbin" ] || continue
		touch -c "$entry.log" "$entry.fatbin"
		cp "$entry.log" "$out/$name.log"
		cmp -s "$entry.fatbin" "$out/$name.fatbin" || cp "$entry.fatbin" "$out/$name.fatbin"
		cmp -s "$entry.fatbin" "gpu/fatbin/$name.fatbin" || cp "$entry.fatbin" "gpu/fatbin/$name.fatbin"
	done
	for cu in gpu/fatbin/*.fatbin; do
		name=$(basename "$cu" .fatbin)
		[ -f "gpu/kernels/$name.cu" ] || rm -f "$cu" "$out/$name.fatbin" "$out/$name.log"
	done
	table "$strict"
	find "$cache/kernels" -type f -mtime +30 -delete
	[ -z "$failed" ] || die "not all kernels were compiled"
}

# table prints what the kernels use, as ptxas said.
table() {
	local logs=("$out"/*.log)
	[ ${#logs[@]} -gt 0 ] || return 0
	awk -v strict="$1" '
		FNR == 1 { n = split(FILENAME, part, "/"); module = part[n]; sub(/\.log$/, "", module) }
		/Compiling entry function/ { split($0, q, "\047"); kernel = q[2]; arch = q[4] }
		/bytes stack frame/ { stack = $1; spill = $5 + $9 }
		/Used [0-9]+ registers/ {
			registers = shared = 0
			for (i = 1; i < NF; i++) {
				if ($(i + 1) ~ /^registers/) registers = $i
				if ($(i + 1) == "bytes" && $(i + 2) ~ /^smem/) shared = $i
			}
			if (!head++) printf "%-12s %-32s %-8s %9s %7s %7s %7s\n", "module", "kernel", "arch", "registers", "spill", "stack", "shared"
			printf "%-12s %-32s %-8s %9d %7d %7d %7d\n", module, kernel, arch, registers, spill, stack, shared
			if (spill) spills++
			if (spill > 80) large++
			stack = spill = 0
		}
		END {
			if (spills) printf "%d kernels spill registers, %d of them many\n", spills, large
			if (strict && large) exit 1
		}
	' "${logs[@]}"
}

# emulated SOURCE sets $name, $flags, and $entry: where what g++ made of it is kept.
emulated() {
	name=$(basename "$1")
	name=${name%.*}
	flags=(-DPIPE_EMU -std=c++17 -O2 -g1 -fPIC -fno-gnu-unique -pthread -ffp-contract=off -Wall -Wno-unknown-pragmas
		-fsanitize=alignment,bounds,shift-exponent,integer-divide-by-zero -fno-sanitize-recover=all -I gpu/emu -I gpu/kernels)
	entry=$cache/emu/$name-$( (printf '%s\n' "$(g++ --version)" "${flags[@]}" && cat "$1" gpu/kernels/*.cuh gpu/emu/*.{h,cuh,cpp}) | digest).o
}

compile_emulated() {
	local name flags entry
	emulated "$1"
	[ ! -f "$entry" ] || return 0
	echo "g++ $1" >&2
	if ! nice g++ "${flags[@]}" -DPIPE_MODULE="\"$name\"" -x c++ -c -o "$entry.$$" "$1"; then
		rm -f "$entry.$$"
		return 1
	fi
	# What a kernel's file defines stays its own, as in a module on the device:
	# two files may have different functions of one name.
	case $1 in
	*.cu)
		ld -r --force-group-allocation -o "$entry.$$.r" "$entry.$$" && objcopy --keep-global-symbol=none "$entry.$$.r" "$entry.$$" || return
		rm "$entry.$$.r"
		;;
	esac
	mv "$entry.$$" "$entry"
}

# emu builds the emulated driver.
emu() {
	driver
	need g++ "apt-get install g++"
	[ -f gpu/emu/driver.cpp ] || die "there is no gpu/emu/driver.cpp"
	shopt -s nullglob
	local source all=(gpu/emu/driver.cpp gpu/kernels/*.cu) objects=() name flags entry key
	mkdir -p "$cache/emu"
	together compile_emulated "${all[@]}" || die "not all of the emulated driver was compiled"
	for source in "${all[@]}"; do
		emulated "$source"
		touch -c "$entry"
		objects+=("$entry")
	done
	key=$(printf '%s\n' "${objects[@]}" | digest)
	if [ ! -f "$out/libcuda-emu.so" ] || [ "$(cat "$out/libcuda-emu.key" 2>/dev/null)" != "$key" ]; then
		g++ -shared -pthread -Wl,-Bsymbolic -Wl,-soname,libcuda-emu.so -o "$out/libcuda-emu.so.$$" "${objects[@]}"
		mv "$out/libcuda-emu.so.$$" "$out/libcuda-emu.so"
		echo "$key" >"$out/libcuda-emu.key"
	fi
	find "$cache/emu" -type f -mtime +30 -delete
}

# pipe builds the program. It needs libc at run time and nothing else.
pipe() {
	need go "https://go.dev/dl"
	kernels
	settings
	go build -trimpath -tags cuda -ldflags "-s -w -linkmode external -extldflags -static-libgcc" -o out/pipe-cuda ./cmd/pipe
	echo out/pipe-cuda
}

# run_tests runs the tests on the emulated driver.
run_tests() {
	need go "https://go.dev/dl"
	emu
	settings
	PIPE_CUDA_DRIVER=$out/libcuda-emu.so nice go test -count=1 -timeout 40m -tags cuda ./gpu/... "$@" # -count=1: the go command does not know of the driver
}

# tests builds the tests as programs. They run in their package's directory.
tests() {
	need go "https://go.dev/dl"
	kernels
	settings
	local dir
	for dir in $(go list -tags cuda -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}' ./gpu/...); do
		go test -c -trimpath -tags cuda -o "$out/$(basename "$dir").test" "$dir"
		echo "out/cuda/$(basename "$dir").test"
	done
}

# check_dl compares the declarations of gpu/dl with NVIDIA's headers. They are in a
# toolkit's include, or in the wheels nvidia-cublas and nvidia-nccl-cu13, which are
# large. The types of half precision, which need more headers, are left out.
check_dl() {
	[ $# -gt 0 ] || die "check-dl needs the directories of cublasLt.h and nccl.h"
	toolkit
	gcc -std=gnu11 -Wall -Werror -fsyntax-only -D__CUDA_FP16_H__ -D__CUDA_BF16_H__ "${@/#/-I}" -I "$toolkit/include" gpu/dl/testdata/headers.c
	echo "gpu/dl agrees with $*"
}

# print_env prints the settings for a shell.
print_env() {
	settings
	local v
	for v in CGO_ENABLED CGO_CFLAGS CGO_LDFLAGS; do
		printf 'export %s=%q\n' "$v" "${!v}"
	done
}

[ $# -gt 0 ] || set -- toolkit kernels emu pipe
while [ $# -gt 0 ]; do
	command=$1
	shift
	case $command in
	toolkit | driver | emu | pipe | tests) $command ;;
	kernels)
		if [ "${1:-}" = --strict ]; then
			shift
			kernels --strict
		else
			kernels
		fi
		;;
	test)
		run_tests "$@"
		break
		;;
	check-dl)
		check_dl "$@"
		break
		;;
	env) print_env ;;
	help | -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' gpu/build.sh ;;
	*) die "unknown subcommand $command; try gpu/build.sh help" ;;
	esac
done
