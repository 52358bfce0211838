#!/usr/bin/env bash
# bench/cuda/device.sh [PART[=SECONDS]...]: run the CUDA backend on the device of
# this machine, with the programs that bench/cuda/prepare.sh built, and print a
# short table last. Parts, with the seconds that each may take:
#
#   suite      the tests of gpu; no device is a failure
#   memcheck   some of them under compute-sanitizer, if it is there
#   kernels    micro-benchmarks of the kernels, and of cublasLt
#   fp8        products in 8 bits beside those in bfloat16 and cublasLt's, and training with them
#   products   the same products and attention in PyTorch
#   train      adapters on models with made-up weights
#   profile    where the time of these steps, and of generation, goes: by kernels and sizes, to profile.txt
#   decode     generation with them
#   load       loading them, and what that consists of
#   paging     updates whose moments lie in the machine's memory, and training all weights so
#   peer       training with PyTorch, transformers and PEFT
#   peer_decode    generation with them
#   peer_compiled  training with torch.compile, which takes its time
#   program    pipe-cuda says which device it found
#   recipes    the quickstart on the processor and on the device, and its metrics on both; the
#              legal recipe on the device, a short way through it, if its model was fetched
#
# Without arguments: what the backend promises, in ten minutes: the suite, the recipes,
# training, generation and loading, and PyTorch's beside them. The parts run in the order
# given; what one has measured when its time is over counts. Logs and results.jsonl are
# written to $OUT, by default out/cuda-bench. PIPE_BENCH_MODEL=tiny tries it all out on any
# machine, where PIPE_CUDA_DRIVER can name the emulated driver and PIPE_BENCH_RECIPE a
# recipe that is shorter than the quickstart.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
run=$root/out/cuda-run
OUT=${OUT:-$root/out/cuda-bench}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
results=$OUT/results.jsonl
log=$OUT/log.txt
model=${PIPE_BENCH_MODEL:-}
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 PIPE_REQUIRE_CUDA=1
if [ "$run/programs.tar.xz" -nt "$run/unpacked" ]; then
	"$python" -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter="data")' "$run/programs.tar.xz" "$run" && touch "$run/unpacked" || exit
fi
: >>"$results"

# The tests' fixtures lie where they were compiled.
built=$(cat "$run/root")
if [ ! -e "$built" ]; then
	mkdir -p "$(dirname "$built")"
	ln -s "$root" "$built"
fi

if [ -z "${PIPE_CUBLASLT:-}" ]; then
	PIPE_CUBLASLT=$("$python" -c '
import os, sys
for p in sys.path:
    for d in "nvidia/cu13/lib", "nvidia/cublas/lib":
        f = os.path.join(p, d, "libcublasLt.so.13")
        if os.path.exists(f):
            print(f)
            sys.exit()' 2>>"$log")
	[ -z "$PIPE_CUBLASLT" ] || export PIPE_CUBLASLT
fi

# limited SECONDS COMMAND...: its results and what else it says, within the time
# that its part has left.
limited() {
	local limit=$1 left=$((deadline - SECONDS))
	shift
	[ "$limit" -le "$left" ] || limit=$left
	if [ "$limit" -le 0 ]; then
		echo "not begun, no time is left: $*" >>"$log"
		return 124
	fi
	local begun=$SECONDS status=0
	echo "== $* (at most $limit s)" >>"$log"
	timeout --kill-after=5 "$limit" "$@" >>"$results" 2>>"$log" || status=$?
	echo "== exit $status after $((SECONDS - begun)) s" >>"$log"
	[ $status -eq 0 ] || echo "exit $status after $((SECONDS - begun)) s: $*"
	return 0
}

# size MODEL: that model, or the one for trying out.
size() { echo "${model:-$1}"; }

# small FLAG...: flags that make it quick when it is only tried out.
small() { [ -z "$model" ] || echo "$@"; }

bench() { limited "$1" "$run/bench-cuda" "${@:2}"; }

suite() {
	local status=0
	(cd gpu && timeout --kill-after=5 $((deadline - SECONDS)) "$run/gpu.test" -test.v -test.timeout "$((deadline - SECONDS - 3))s" >"$OUT/suite.log" 2>&1) || status=$?
	echo "suite: exit $status, $(grep -c -- '--- PASS' "$OUT/suite.log") passed, $(grep -c -- '--- FAIL' "$OUT/suite.log") failed, $(grep -c -- '--- SKIP' "$OUT/suite.log") skipped"
	if [ $status -ne 0 ]; then
		grep -- '--- FAIL' "$OUT/suite.log" | head -30
		grep -nE '^(panic|fatal error|SIG)|: (.*CUDA|gpu:)' "$OUT/suite.log" | head -20
	fi
}

memcheck() {
	command -v compute-sanitizer >/dev/null || {
		echo "memcheck: there is no compute-sanitizer"
		return
	}
	(cd gpu && timeout --kill-after=5 $((deadline - SECONDS)) compute-sanitizer --tool memcheck --print-limit 20 "$run/gpu.test" \
		-test.run "${PIPE_BENCH_MEMCHECK:-TestConformance/(matmul|attention|project|logprob)}" >"$OUT/memcheck.log" 2>&1)
	echo "memcheck: exit $?, $(tail -1 "$OUT/memcheck.log")"
	grep -A3 -m5 'Invalid\|Race\|Error:' "$OUT/memcheck.log"
}

kernels() { bench 600 kernels -model "$(size 8b)" $(small -samples 3); }

fp8() {
	local big
	big=$(size 8b)
	bench 60 kernels -group fp8 -model "$big" $(small -samples 3)
	set -- $(small -seq 128 -steps 2 -warm 1)
	for adapter in lora dora; do
		bench 60 train -model "$big" -adapter $adapter "$@"
		bench 60 train -model "$big" -adapter $adapter -precision fp8 "$@"
	done
	bench 60 train -model "$big" -adapter lora -base nf4 -precision fp8 "$@"
}

products() { limited 120 "$python" bench/cuda/peer.py products --model "$(size 8b)" $(small --device cpu --seq 128); }

train() {
	local big little
	big=$(size 8b)
	little=$(size 1b)
	set -- $(small -seq 128 -steps 2 -warm 1)
	bench 60 train -model "$big" -adapter lora "$@"
	bench 60 train -model "$big" -adapter dora "$@"
	bench 60 train -model "$big" -adapter lora -base nf4 "$@"
	bench 40 train -model "$little" -adapter lora "$@"
	bench 40 train -model "$little" -adapter dora "$@"
	bench 60 train -model "$big" -adapter lora -documents 32 "$@"
	bench 60 train -model "$big" -adapter lora -recompute true "$@"
}

profile() {
	local log=$OUT/profile.txt # where limited puts what a program says
	: >"$log"
	export PIPE_CUDA_PROFILE=shapes
	set -- $(small -seq 128)
	bench 30 train -model "$(size 8b)" -adapter lora -steps 2 -warm 1 "$@"
	bench 30 train -model "$(size 8b)" -adapter dora -steps 2 -warm 1 "$@"
	bench 30 train -model "$(size 1b)" -adapter lora -steps 2 -warm 1 "$@"
	bench 30 decode -model "$(size 8b)" -batch 1 -prompt 64 -new 16
	bench 30 decode -model "$(size 8b)" -batch 64 -prompt 64 -new 16
	unset PIPE_CUDA_PROFILE
}

decode() {
	set -- $(small -prompt 32 -new 8)
	bench 60 decode -model "$(size 8b)" -base bf16 "$@"
	bench 40 decode -model "$(size 8b)" -base nf4 -batch 1,16,64 "$@"
	bench 40 decode -model "$(size 8b)" -base q8_0 -batch 1,16,64 "$@"
	bench 40 decode -model "$(size 1b)" -base bf16 "$@"
}

load() { bench 60 load -model "$(size 8b)" -dir "${TMPDIR:-/tmp}" $([ -n "$model" ] || echo -steps); }

paging() {
	bench 90 paging $(small -n 65536 -samples 2)
	set -- $(small -seq 128 -steps 2 -warm 1)
	bench 60 train -model "$(size 1b)" -adapter none "$@"
	bench 60 train -model "$(size 1b)" -adapter none -paged 1000000 "$@"
	bench 200 train -model "$(size 8b)" -adapter none -recompute true -paged 1000000 -steps 3 -warm 1 "$@"
}

peer() {
	set -- $(small --device cpu --seq 64 --steps 2 --warm 1)
	limited 150 "$python" bench/cuda/peer.py train --model "$(size 8b)" --cases lora,dora,lora+recompute,lora+amp,dora+recompute "$@"
	limited 60 "$python" bench/cuda/peer.py train --model "$(size 1b)" --cases lora,dora "$@"
}

peer_decode() {
	set -- $(small --device cpu --prompt 16 --new 8)
	limited 90 "$python" bench/cuda/peer.py decode --model "$(size 8b)" --cases eager "$@"
	limited 60 "$python" bench/cuda/peer.py decode --model "$(size 1b)" --cases eager "$@"
}

peer_compiled() {
	set -- $(small --device cpu --seq 64 --steps 2 --warm 1)
	limited 150 "$python" bench/cuda/peer.py train --model "$(size 8b)" --cases lora+layers,dora+layers "$@"
	limited 150 "$python" bench/cuda/peer.py train --model "$(size 1b)" --cases lora+compiled "$@"
}

program() {
	timeout 60 "$run/pipe-cuda" doctor 2>&1 | tee -a "$log"
}

# recipe SECONDS FILE DEVICE FLAG...: run it; what it made goes to recipes.txt.
recipe() {
	local limit=$1 file=$2 on=$3 left=$((deadline - SECONDS)) begun=$SECONDS status=0
	[ "$limit" -le "$left" ] || limit=$left
	[ "$limit" -gt 0 ] || {
		echo "recipes: not begun, no time is left: $file on $on"
		return 1
	}
	set -- "$file" --device "$on" --store "$store" "${@:4}"
	echo "== pipe run $* (at most $limit s)" >>"$log"
	timeout --kill-after=5 "$limit" "$run/pipe-cuda" run "$@" >>"$log" 2>&1 || status=$?
	echo "recipes: $file on $on: exit $status after $((SECONDS - begun)) s"
	[ $status -eq 0 ] || {
		tail -15 "$log"
		return 1
	}
	(echo "$file on $on" && "$run/pipe-cuda" ls "$@") >>"$OUT/recipes.txt" 2>&1
}

recipes() {
	store=$OUT/store
	local file=${PIPE_BENCH_RECIPE:-pipelines/quickstart.hcl} out=$OUT/exports compared='^ *[a-z_]+\.(loss|acc|accuracy|exact_match|nll) '
	rm -rf "$store" "$out"
	: >"$OUT/recipes.txt"
	if recipe 60 "$file" cpu --var out="$out" && recipe 90 "$file" cuda --var out="$out"; then
		"$run/pipe-cuda" metrics diff last~1 last "$file" --store "$store" >"$store.txt" 2>&1
		cat "$store.txt" >>"$OUT/recipes.txt"
		echo "recipes: on the processor, on the device:"
		grep -E "$compared" "$store.txt"
	fi
	file=pipelines/legal.hcl
	if [ -e pipelines/legal/cache/SmolLM2-135M-Instruct.Q4_1.gguf ] &&
		recipe 150 "$file" cuda --var out="$out" --var dialogues=12 --var steps=3 --var limit=6 --var needles=1; then
		"$run/pipe-cuda" metrics "$file" --store "$store" >"$store.txt" 2>&1
		cat "$store.txt" >>"$OUT/recipes.txt"
		echo "recipes: on the device:"
		grep -E "$compared" "$store.txt"
	fi
	rm -rf "$store" "$store.txt" "$out"
}

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm,power.limit --format=csv,noheader 2>/dev/null
[ $# -gt 0 ] || set -- suite=100 train=50 decode=75 load=20 recipes=75 peer=90 peer_decode=40 peer_compiled=120
before=$(wc -l <"$results")
for part in "$@"; do
	name=${part%%=*}
	case $name in
	suite) seconds=120 ;;
	memcheck) seconds=90 ;;
	kernels) seconds=120 ;;
	products | load | profile | program) seconds=60 ;;
	recipes) seconds=180 ;;
	train | decode | fp8) seconds=150 ;;
	peer | peer_decode) seconds=150 ;;
	peer_compiled | paging) seconds=300 ;;
	*)
		echo "bench/cuda/device.sh: there is no part $name" >&2
		exit 2
		;;
	esac
	[ "$part" = "$name" ] || seconds=${part#*=}
	begun=$SECONDS
	deadline=$((SECONDS + seconds))
	$name
	echo "$name: $((SECONDS - begun)) s"
done
tail -n +$((before + 1)) "$results" >"$OUT/latest.jsonl"
"$run/bench-cuda" table "$OUT/latest.jsonl" | tee "$OUT/table.txt"
