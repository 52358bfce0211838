// fault.h says which kernel it was when one reads or writes where there is no
// memory. driver.cpp includes it once.
#pragma once
#include <signal.h>

#include "block.h"

namespace emu {

static struct sigaction faultBefore[2];  // SIGSEGV, SIGBUS: whoever handles them else, such as the Go runtime

static void fault(int signal, siginfo_t* info, void* context) {
  struct sigaction* before = &faultBefore[signal == SIGBUS];
  if (kernel && pthread_equal(runner, pthread_self())) {
    const char* at = static_cast<char*>(info->si_addr);
    bool deep = at >= stacks && at < stacks + maxThreads * (stackBytes + 4096);
    uint3 block = cur ? cur->block : blocks[0].at;
    char line[300];
    int n = snprintf(line, sizeof line, "emu: %s at %p in kernel %s, block (%u,%u,%u), thread (%u,%u,%u)\n",
                     deep ? "stack overflow" : "no memory", (const void*)at, kernel->name, block.x, block.y, block.z,
                     cur ? cur->tid.x : 0, cur ? cur->tid.y : 0, cur ? cur->tid.z : 0);
    if (write(2, line, (size_t)n) < 0) abort();
  }
  if (before->sa_flags & SA_SIGINFO)
    before->sa_sigaction(signal, info, context);
  else if (before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN)
    before->sa_handler(signal);
  else
    sigaction(signal, before, nullptr);  // the access is tried again, and ends the program
}

static void watchFaults() {
  struct sigaction a = {};
  a.sa_sigaction = fault;
  a.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigfillset(&a.sa_mask);
  sigaction(SIGSEGV, &a, &faultBefore[0]);
  sigaction(SIGBUS, &a, &faultBefore[1]);
}

}  // namespace emu
