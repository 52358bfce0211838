//go:build cuda

package gpu

import (
	"embed"
	"fmt"
	"runtime"
	"unsafe"

	"gorgonia.org/cu"

	"pipe/tensor"
)

// images holds the compiled kernels, one file a module. The folder is filled by
// build.sh.
//
//go:embed fatbin
var images embed.FS

// A kernel is a function of a module, which is a file of folder kernels.
type kernel struct {
	module, name string
	index        int
}

// kernels are all there are.
var kernels []*kernel

func newKernel(module, name string) *kernel {
	k := &kernel{module, name, len(kernels)}
	kernels = append(kernels, k)
	return k
}

// weightTypes are the types that operands may have.
var weightTypes = [...]tensor.DType{tensor.F32, tensor.F16, tensor.BF16, tensor.Q4_0, tensor.Q4_1, tensor.Q5_0, tensor.Q5_1, tensor.Q8_0, tensor.Q4_K, tensor.Q5_K, tensor.Q6_K, tensor.NF4}

// kernelsOf returns a kernel for each type of weight: prefix, name of the type,
// suffix.
func kernelsOf(module, prefix, suffix string) (ks [tensor.NF4 + 1]*kernel) {
	for _, dt := range weightTypes {
		ks[dt] = newKernel(module, prefix+dt.String()+suffix)
	}
	return ks
}

// function is a kernel on the device of a backend.
type function struct {
	fn     cu.Function
	loaded bool
	shared int // dynamic shared memory that it is allowed
}

// dim is a size of a grid; y and z of 0 count as 1.
type dim struct{ x, y, z int }

// launch queues a kernel; shared is its dynamic shared memory in bytes. A grid of
// nothing is no launch.
func launch[A any](b *Backend, k *kernel, grid dim, threads, shared int, args *A) {
	grid.y, grid.z = max(grid.y, 1), max(grid.z, 1)
	if b.err != nil || b.counts != nil || grid.x == 0 {
		return
	}
	f := &b.functions[k.index]
	if c := b.capture; c != nil && (c.broken || !f.loaded || shared > f.shared) {
		c.broken = true
		return
	}
	if !f.loaded {
		if err := b.load(k, f, int(unsafe.Sizeof(*args))); err != nil {
			b.fail(err)
			return
		}
	}
	if shared > f.shared { // without asking, a kernel has 48 KiB, of which its static arrays take a part
		if err := b.stream.AllowShared(f.fn, shared); err != nil {
			b.fail(fmt.Errorf("gpu: kernel %s: %d bytes of shared memory: %w", k.name, shared, err))
			return
		}
		f.shared = shared
	}
	if b.profile != nil {
		b.check("profile", b.profile.mark(b.stream, 0))
	}
	err := b.stream.Launch(f.fn, grid.x, grid.y, grid.z, threads, shared, unsafe.Pointer(args))
	if err == nil && b.profile != nil {
		err = b.profile.launched(b.stream, k)
	}
	if err == nil && b.each {
		err = b.stream.Sync()
	}
	if err != nil {
		b.fail(fmt.Errorf("gpu: kernel %s: %w", k.name, err))
	}
}

// load finds a kernel, whose argument has that size in bytes, and loads its module
// when it is the first of it.
func (b *Backend) load(k *kernel, f *function, size int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, _, err := b.stream.Memory(); err != nil { // makes the context current
		return fmt.Errorf("gpu: kernel %s: %w", k.name, err)
	}
	m, ok := b.modules[k.module]
	if !ok {
		image := []byte(k.module) // all that the emulator needs to know
		if !b.emulated {
			var err error
			if image, err = images.ReadFile("fatbin/" + k.module + ".fatbin"); err != nil {
				return fmt.Errorf("gpu: the kernels of %q are not in this program; build it with: make cuda", k.module)
			}
		}
		var err error
		if m, err = cu.LoadData(string(image)); err != nil {
			return fmt.Errorf("gpu: load module %s: %w", k.module, err)
		}
		b.modules[k.module] = m
	}
	var err error
	if f.fn, err = m.Function(k.name); err != nil {
		return fmt.Errorf("gpu: kernel %s of module %s: %w", k.name, k.module, err)
	}
	switch n, err := b.stream.Argument(f.fn); {
	case err != nil:
		return fmt.Errorf("gpu: kernel %s of module %s: %w", k.name, k.module, err)
	case n != 0 && n != size:
		panic(fmt.Sprintf("gpu: kernel %s of module %s takes %d bytes; its argument has %d", k.name, k.module, n, size))
	}
	f.loaded = true
	return nil
}
