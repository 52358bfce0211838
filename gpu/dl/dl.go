//go:build cuda

// Package dl opens NVIDIA's libraries when a program asks for them: cublasLt for
// products of matrices, NCCL for sums over several devices. Nothing is linked, and
// no headers are needed: the few functions and numbers that are used are declared
// here, and "gpu/build.sh check-dl" compares them with the headers.
//
// A library is looked for under its versions, newest first, by the system's loader,
// in the directories of LD_LIBRARY_PATH, below these and the packages of an active
// Python environment in nvidia/*/lib, where wheels have it, and where toolkits are
// installed. One that does not start (its version may be too new for the driver)
// gives way to the next.
package dl

/*
#cgo LDFLAGS: -ldl
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

// dl_open says in *why what went wrong, until the thread's next call.
static void *dl_open(const char *path, const char **why) {
	void *h = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	*why = h ? "" : dlerror();
	return h;
}

// dl_path is the file that a function is in.
static const char *dl_path(void *function) {
	Dl_info i;
	return dladdr(function, &i) && i.dli_fname ? i.dli_fname : "";
}
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"
)

// An ErrNotFound says that there is no library that works, and what was tried.
type ErrNotFound struct {
	Library string
	Tried   []error
}

func (e *ErrNotFound) Error() string {
	var list []string
	for _, err := range e.Tried {
		list = append(list, err.Error())
	}
	return fmt.Sprintf("no %s works here: %s", e.Library, strings.Join(list, "; "))
}

func (e *ErrNotFound) Unwrap() []error { return e.Tried }

// A library is open.
type library struct {
	handle unsafe.Pointer
	path   string
}

// open opens the first library that is there and that use accepts. The path in the
// environment variable, if there is one, is the only one tried.
func open(what, variable string, names []string, use func(l library) error) error {
	var tried []error
	seen := map[string]bool{}
	for _, path := range candidates(variable, names) {
		if seen[path] {
			continue
		}
		seen[path] = true
		l, err := load(path)
		if err == nil {
			if err = use(l); err == nil {
				return nil
			}
			err = fmt.Errorf("%s: %w", path, err) // it stays loaded, as libraries of this size rarely unload well
		}
		if len(tried) == 0 || filepath.IsAbs(path) { // that the older versions are not there either says nothing more
			tried = append(tried, err)
		}
	}
	return &ErrNotFound{Library: what, Tried: tried}
}

// candidates lists what to hand to the loader.
func candidates(variable string, names []string) []string {
	if path := os.Getenv(variable); path != "" {
		return []string{path}
	}
	var dirs, list []string
	for _, dir := range filepath.SplitList(os.Getenv("LD_LIBRARY_PATH")) {
		dirs = append(dirs, dir, filepath.Join(dir, "nvidia/*/lib"))
	}
	for _, v := range []string{"VIRTUAL_ENV", "CONDA_PREFIX"} {
		if dir := os.Getenv(v); dir != "" {
			dirs = append(dirs, filepath.Join(dir, "lib/python*/site-packages/nvidia/*/lib"), filepath.Join(dir, "lib"))
		}
	}
	for _, v := range []string{"CUDA_HOME", "CUDA_PATH"} {
		if dir := os.Getenv(v); dir != "" {
			dirs = append(dirs, filepath.Join(dir, "lib64"))
		}
	}
	dirs = append(dirs, "/usr/local/cuda/lib64", "/usr/local/cuda-*/lib64", "/opt/cuda/lib64")
	for _, name := range names {
		list = append(list, name)
		for _, dir := range dirs {
			found, _ := filepath.Glob(filepath.Join(dir, name)) // a directory with an odd name has none
			list = append(list, found...)
		}
	}
	return list
}

// load opens one library. All that it needs must be there.
func load(path string) (library, error) {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	runtime.LockOSThread() // the reason is the thread's
	defer runtime.UnlockOSThread()
	var why *C.char
	h := C.dl_open(name, &why)
	if h == nil {
		return library{}, errors.New(C.GoString(why)) // it names the library
	}
	return library{handle: h}, nil
}

// symbols fills to with the functions of these names, in order, and notes the file
// that they are in.
func (l *library) symbols(to []unsafe.Pointer, names ...string) error {
	for i, name := range names {
		n := C.CString(name)
		to[i] = C.dlsym(l.handle, n)
		C.free(unsafe.Pointer(n))
		if to[i] == nil {
			return fmt.Errorf("it has no %s", name)
		}
	}
	l.path = C.GoString(C.dl_path(to[0]))
	return nil
}
