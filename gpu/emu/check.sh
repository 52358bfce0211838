#!/usr/bin/env bash
# gpu/emu/check.sh tests the emulator: kernels without a bug must compute the
# right numbers, and each planted bug must be caught.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
command -v g++ >/dev/null || { echo "check.sh: g++ is not installed: apt-get install g++" >&2; exit 1; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
flags=(-O2 -std=c++17 -fPIC -fno-gnu-unique -ffp-contract=off -Wall -Wextra -DPIPE_EMU
	-fsanitize=alignment,bounds,shift-exponent,integer-divide-by-zero -fno-sanitize-recover=all)

build() { # NAME FLAGS...
	local name=$1
	shift
	g++ "${flags[@]}" "$@" -c -o "$tmp/$name-driver.o" driver.cpp
	g++ "${flags[@]}" "$@" -Wno-array-bounds -x c++ -c -o "$tmp/$name-kernels.o" test/kernels.cu
	g++ -shared -o "$tmp/lib$name.so" "$tmp/$name-driver.o" "$tmp/$name-kernels.o"
	g++ -O2 -std=c++17 -Wall -o "$tmp/$name" test/main.cpp -L"$tmp" -l"$name" -Wl,-rpath,"$tmp"
}

failed=0
caught=0
right() { # PROGRAM CASE
	if ! "$tmp/$1" "$2" >"$tmp/said" 2>&1; then
		echo "check.sh: $1 $2 (seed ${PIPE_EMU_SEED:-1}) failed:" >&2
		cat "$tmp/said" >&2
		failed=$((failed + 1))
	fi
}
bug() { # CASE N EXIT MESSAGE: 1 is wrong numbers, 134 the emulator's abort, 139 a fault
	local code=0
	{ "$tmp/fibers" "$1" "$2"; } >"$tmp/said" 2>&1 || code=$?
	if [ "$code" = "$3" ] && { [ -z "$4" ] || grep -q -- "$4" "$tmp/said"; }; then
		caught=$((caught + 1))
		return
	fi
	echo "check.sh: bug $2 of $1 (seed ${PIPE_EMU_SEED:-1}) was not caught as it should (exit status $code, not $3 and \"$4\"):" >&2
	cat "$tmp/said" >&2
	failed=$((failed + 1))
}

build fibers
build ucontext -DEMU_UCONTEXT

for PIPE_EMU_SEED in 1 2 3 4 5; do
	export PIPE_EMU_SEED
	for case in tree warp shuffle product transposed ring wrong; do right fibers "$case"; done
	bug tree 1 1 ''       # no barrier between the steps of a tree
	bug warp 1 1 ''       # no __syncwarp
	bug product 1 1 ''    # no wait for an asynchronous copy
	bug product 2 1 ''    # a wait that leaves out the last copy
	bug product 3 1 ''    # no barrier after the wait
	bug product 4 1 ''    # no barrier before the next copy to the same place
	bug product 5 1 ''    # no commit
	bug transposed 4 1 '' # as 4
	bug ring 1 134 'more than 1 arrivals' # no wait for the end of the readers
	bug ring 4 134 'more than 1 arrivals' # no wait for the bytes
	bug ring 5 1 ''       # a stage is given back before it is read
	bug ring 6 1 ''       # it is given back to the own block alone
done
unset PIPE_EMU_SEED
bug wrong 1 134 'written 0 bytes beyond the end of device allocation'
bug wrong 2 134 'divergent __syncthreads'
bug wrong 3 134 'threads have exited\|a thread has exited'
bug wrong 4 134 'names lanes that have exited\|a lane of the mask ffffffff has exited'
bug wrong 5 134 deadlock
bug wrong 6 134 'index 25[67] is not in the array'
bug wrong 7 134 'not 16-byte aligned'
bug wrong 8 134 'meet at different instructions'
bug wrong 9 134 'written in front of device allocation'
bug wrong 10 1 ''
bug wrong 11 134 'unaligned'
bug wrong 12 134 'index 4 is not in the array'
bug wrong 13 134 'does not name the calling lane\|has exited\|have exited'
bug wrong 14 134 'all threads wait in loops'
bug wrong 15 1 ''
bug wrong 16 134 'beyond the 64 bytes asked for'
bug wrong 17 139 'no memory at .* in kernel wrong'
bug ring 2 134 ''     # fewer bytes are waited for than come
bug ring 3 134 'all threads wait in loops' # more bytes are waited for than come
bug ring 7 134 'of the cluster\(, which\)\? has exited\|of its threads have exited' # a block leaves before the other
bug pinned 1 1 ''
bug mapped 1 1 ''     # the host does not wait for what a kernel writes to its memory
bug mapped 2 134 'written 0 bytes beyond the end of host allocation'
bug freed 0 134 'after device allocation 1 of 400 bytes was freed'
bug graph 1 134 'names allocation [0-9]*, which was freed'
for case in pinned mapped graph refused planned; do right fibers "$case"; done
for case in shuffle product ring; do right ucontext "$case"; done
"$tmp/fibers" speed
[ "$failed" = 0 ] || { echo "check.sh: $failed failures" >&2; exit 1; }
echo "all right; $caught planted bugs caught"
