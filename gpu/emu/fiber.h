// fiber.h switches between stacks. block.h includes it once.
#pragma once
#include <stddef.h>
#if !defined(__x86_64__) && !defined(EMU_UCONTEXT)
#define EMU_UCONTEXT
#endif
#ifdef EMU_UCONTEXT
#include <ucontext.h>
#endif

namespace emu {

// Contexts: a switch saves the registers that a call keeps, no more.
#ifndef EMU_UCONTEXT
typedef void* Context;
extern "C" void emu_switch(Context* save, Context load);
asm(".text\n.hidden emu_switch\n.globl emu_switch\n.type emu_switch,@function\nemu_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
    ".size emu_switch,.-emu_switch\n");
static inline void switchTo(Context* save, Context* load) { emu_switch(save, *load); }
static inline void prepare(Context* c, char* stack, size_t bytes, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + bytes);
  *--top = nullptr;  // the entry finds the stack as after a call
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  *c = top;
}
#else
typedef ucontext_t Context;
static inline void switchTo(Context* save, Context* load) { swapcontext(save, load); }
static inline void prepare(Context* c, char* stack, size_t bytes, void (*entry)()) {
  getcontext(c);
  c->uc_stack.ss_sp = stack;
  c->uc_stack.ss_size = bytes;
  c->uc_link = nullptr;
  makecontext(c, entry, 0);
}
#endif

}  // namespace emu
