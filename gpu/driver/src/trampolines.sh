#!/usr/bin/env bash
# trampolines.sh NAMES > trampolines.S: for each function of the driver a jump
# through a slot, which load.c fills, and the table of their names. The symbols
# are hidden: the driver must not find them in place of its own.
set -euo pipefail
cat <<'END'
// Made by trampolines.sh. Preprocessed for x86-64 and arm64.
.section .note.GNU-stack,"",%progbits
#if defined(__x86_64__)
.macro trampoline name, index
	.text
	.p2align 4
	.globl \name
	.hidden \name
	.type \name, %function
\name:
	endbr64
	jmp *(pipe_cuda_slots + 8 * \index)(%rip)
	.size \name, . - \name
.endm
#elif defined(__aarch64__)
.macro trampoline name, index
	.text
	.p2align 4
	.globl \name
	.hidden \name
	.type \name, %function
\name:
	hint #34 // bti c
	adrp x16, pipe_cuda_slots + 8 * \index
	ldr x16, [x16, #:lo12:(pipe_cuda_slots + 8 * \index)]
	br x16
	.size \name, . - \name
.endm
#else
#error "trampolines are written for x86-64 and arm64"
#endif
.macro text index, name
	.section .rodata.str, "a"
.Lname\index: .asciz "\name"
	.section .data.rel.ro, "aw"
	.quad .Lname\index
.endm
	.data
	.p2align 3
	.globl pipe_cuda_slots
	.hidden pipe_cuda_slots
END
names=$(grep -v '^#' "$1")
count=$(wc -w <<<"$names")
cat <<END
pipe_cuda_slots:
	.rept $count
	.quad pipe_cuda_not_ready
	.endr
	.section .rodata
	.p2align 2
	.globl pipe_cuda_count
	.hidden pipe_cuda_count
pipe_cuda_count: .long $count
	.section .data.rel.ro, "aw"
	.p2align 3
	.globl pipe_cuda_names
	.hidden pipe_cuda_names
pipe_cuda_names:
END
i=0
for name in $names; do
	printf '\ttext %d, %s\n\ttrampoline %s, %d\n' "$i" "$name" "$name" "$i"
	i=$((i + 1))
done
