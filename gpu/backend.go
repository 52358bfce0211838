//go:build cuda

package gpu

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"gorgonia.org/cu"

	"pipe/gpu/cux"
	"pipe/tensor"
)

// ErrClosed is what Sync and Alloc return after Close.
var ErrClosed = errors.New("gpu: the backend is closed")

// A Backend runs on one device. It is used by one goroutine at a time.
type Backend struct {
	name   string
	stream *cux.Stream
	device cu.Device
	sms    int // multiprocessors
	major  int // of the compute capability
	shared int // bytes of shared memory that a block may have
	err    error
	counts *counts // of a plan, which has no device; else nil

	// What the environment switches: see switches.
	profile *profile // nil: none
	each    bool
	group   int // rows of tiles that are taken together; 0: as many as is best
	noWgmma bool
	noThin  bool  // products of few columns without the kernels of thin.cu; a test sets it
	noEight error // why there are no products in 8 bits; nil: there are

	tiled     *tiledArgs  // of the last product
	eight     *eightArgs  // of the last one in 8 bits
	streamed  *streamArgs // of the last of few rows
	emulated  bool
	modules   map[string]cu.Module
	functions []function // by index of kernel
	live      map[*memory]struct{}
	locked    int64 // bytes of the machine's memory that tensors have
	scratches [scratchSlots]scratch
	consts    [constantSlots]constants
	lists     [listSlots]list
	entries   []entry // of the list that an operation needs
	staging   staging
	work      attentionWork
	rotate    rotation
	rows      rowLists
	weights   drawWeights
	codes     uint64 // of AdamW8bit, once it has run
	steps     steps
	watch     *needs   // of the step that is run or captured; else nil
	capture   *capture // of the step that is captured; else nil
}

// Built reports whether this build has the backend.
const Built = true

// Open opens a device. Close gives it back.
func Open(o Options) (tensor.Backend, error) { return open(o) }

func open(o Options) (*Backend, error) {
	dev, info, err := find(o.Device)
	if err != nil {
		return nil, err
	}
	b := &Backend{
		device: dev, sms: info.SMs, major: info.Major, name: info.Name(), emulated: info.emulated(),
		each: on(switchSync), noWgmma: on(switchMMA), noEight: info.HasPrecision(tensor.FP8),
		modules: map[string]cu.Module{}, functions: make([]function, len(kernels)), live: map[*memory]struct{}{},
	}
	b.steps.off = on(switchPlain)
	if shapes := os.Getenv(switches[switchProfile].variable) == "shapes"; shapes || on(switchProfile) {
		b.profile = newProfile(os.Stderr, shapes)
	}
	const sharedOptin = cu.DeviceAttribute(97) // gorgonia.org/cu has no name for it
	if b.shared, err = dev.Attribute(sharedOptin); err != nil {
		return nil, fmt.Errorf("shared memory of %s: %w", info.Device, err)
	}
	ctx, err := dev.RetainPrimaryCtx()
	if err != nil {
		return nil, fmt.Errorf("make a context on %s: %w", info.Device, err)
	}
	if b.stream, err = cux.NewStream(ctx); err != nil {
		dev.ReleasePrimaryCtx()
		return nil, fmt.Errorf("make a stream on %s: %w", info.Device, err)
	}
	return b, nil
}

// Probe describes the first device, without opening it, or says why there is none
// that works.
func Probe() (Info, error) {
	_, info, err := find(0)
	return info, err
}

// find describes device i.
func find(i int) (d cu.Device, info Info, err error) {
	started := cux.Status()
	if started != nil && started != cux.ErrNoDevice {
		return 0, info, fmt.Errorf("no NVIDIA driver works here: %w", started)
	}
	v := cu.Version()
	info.Driver = fmt.Sprintf("%d.%d", v/1000, v%1000/10)
	n, err := cu.NumDevices()
	if started != nil || err != nil || n == 0 {
		return 0, info, fmt.Errorf("the NVIDIA driver (CUDA %s) finds no device", info.Driver)
	}
	if i < 0 || i >= n {
		return 0, info, fmt.Errorf("no device %d; there are %d, from 0 on", i, n)
	}
	if d, err = cu.GetDevice(i); err != nil {
		return 0, info, fmt.Errorf("device %d: %w", i, err)
	}
	if info.Device, err = d.Name(); err != nil {
		return 0, info, fmt.Errorf("device %d: %w", i, err)
	}
	if info.Memory, err = d.TotalMem(); err != nil {
		return 0, info, fmt.Errorf("device %d: %w", i, err)
	}
	for to, what := range map[*int]cu.DeviceAttribute{&info.Major: cu.ComputeCapabilityMajor, &info.Minor: cu.ComputeCapabilityMinor, &info.SMs: cu.MultiprocessorCount} {
		if *to, err = d.Attribute(what); err != nil {
			return 0, info, fmt.Errorf("device %d: %w", i, err)
		}
	}
	if info.Major < 8 {
		return 0, info, fmt.Errorf("%s has compute capability %d.%d; 8.0 or newer is needed", info.Device, info.Major, info.Minor)
	}
	return d, info, nil
}

// Name is that of [Info].
func (b *Backend) Name() string { return b.name }

// Stream returns the queue on which all operations run, for who measures them.
func (b *Backend) Stream() *cux.Stream { return b.stream }

// HalfActivations implements [tensor.HalfActivations].
func (b *Backend) HalfActivations() bool { return true }

// HasPrecision implements [tensor.Choosy].
func (b *Backend) HasPrecision(dt tensor.DType) error {
	if dt == tensor.FP8 {
		return b.noEight
	}
	return nil
}

// Sync implements [tensor.Backend].
func (b *Backend) Sync() error {
	if b.err == nil && b.counts == nil {
		if err := b.stream.Sync(); err != nil {
			b.fail(fmt.Errorf("gpu: %w", err))
		}
	}
	return b.err
}

// fail records the first failure. One in a capture only breaks that: when it is no
// matter of the capture, it comes again.
func (b *Backend) fail(err error) {
	if b.err == nil && !b.breaks() {
		b.err = err
	}
}

// check records a failure of the driver.
func (b *Backend) check(op string, err error) {
	if err != nil {
		b.fail(fmt.Errorf("gpu: %s: %w", op, err))
	}
}

// Close frees all memory and gives the device back. Every later operation does
// nothing, and Sync returns ErrClosed.
func (b *Backend) Close() error {
	if b.stream == nil {
		return nil
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.stream.Sync() // makes the context current
	if p := b.profile; p != nil {
		if p.read(b.stream) == nil {
			p.print()
		}
		p.close()
	}
	b.forget()
	for m := range b.live {
		if m.pinned != nil {
			b.stream.FreePinned(m.pinned)
			continue
		}
		b.stream.Free(m.ptr)
		for _, p := range [...]uint64{m.copied, m.codes, m.turned} {
			if p != 0 {
				b.stream.Free(p)
			}
		}
	}
	b.freeScratch()
	for _, m := range b.modules {
		m.Unload()
	}
	b.stream.Close()
	b.device.ReleasePrimaryCtx()
	*b = Backend{name: b.name, err: ErrClosed, functions: b.functions}
	return nil
}
