package main

import (
	"bufio"
	"errors"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/cpu"

	"pipe/gpu"
	"pipe/model/memory"
	hostcpu "pipe/tensor/cpu"
)

// device checks what stages compute on. The error is that of a wrong flag.
func (d *doctor) device() error {
	dev, err := chooseDevice(d.o.device)
	if errors.As(err, new(flagError)) {
		return err
	}
	failed := err
	if err != nil { // no device as asked for: a finding
		dev = onCPU("as --device cuda does not work")
	}
	defer dev.close()
	d.ok("device", "processor", "%s", strings.TrimSpace(processor()+" "+features()))
	limit, limited := d.getenv("PIPE_CPU")
	unknown := hostcpu.CheckEnvironment()
	switch {
	case unknown != nil:
		d.add("device", "kernels", statusFail, "unset PIPE_CPU to use all that the processor has", "%v", unknown)
	case strings.HasPrefix(dev.name, "cpu:generic") && limit != "generic":
		d.add("device", "kernels", statusWarn, "training and generation are many times slower; use a processor with AVX2, FMA and F16C",
			"%s: this program has no fast kernels for this processor", dev.name)
	case limited && limit != "":
		d.add("device", "kernels", statusWarn, "unset PIPE_CPU to use all that the processor has", "%s, limited by PIPE_CPU=%s", dev.name, limit)
	default:
		d.ok("device", "kernels", "%s (%s)", dev.name, dev.why)
	}
	d.ok("device", "threads", "%d, of %d processors", runtime.GOMAXPROCS(0), runtime.NumCPU())
	const little = 2 << 30
	switch l, ok := memory.Available(); {
	case !ok:
		d.add("device", "memory", statusWarn, "stages that would not fit are not found out beforehand", "this system does not tell")
	case l.Bytes < little:
		d.add("device", "memory", statusWarn, "small models train in about 2 GiB; close other programs, or raise the limit of the container", "%s %s", l.From, size(l.Bytes))
	default:
		d.ok("device", "memory", "%s %s", l.From, size(l.Bytes))
	}
	d.cuda(failed)
	if gpu.Built && strings.HasPrefix(dev.name, "cuda") {
		if _, err := dev.open(); err != nil {
			d.add("device", "numbers", statusFail, "compute on the processor with --device cpu", "%v", err)
		} else {
			d.ok("device", "numbers", "a training step in f32 and in bf16 agrees with the processor's")
		}
	}
	return nil
}

// cuda checks the GPU, if this program can use one. failed is why --device cuda
// is not possible.
func (d *doctor) cuda(failed error) {
	if !gpu.Built {
		d.ok("device", "cuda", "not in this build")
		return
	}
	info, err := gpu.Probe()
	switch {
	case failed != nil:
		d.add("device", "cuda", statusFail, "compute on the processor with --device cpu", "%v", failed)
	case err != nil && d.o.device == "cpu":
		d.ok("device", "cuda", "%v", err)
	case err != nil:
		d.add("device", "cuda", statusWarn, "stages compute on the processor; where that is meant, say --device cpu", "%v", err)
	default:
		d.ok("device", "cuda", "%s", describe(info))
		libraries, err := gpu.Libraries()
		if err != nil {
			libraries = "none (" + err.Error() + ")"
		}
		d.ok("device", "libraries", "%s: kernels of its own compute all products", libraries)
	}
}

// processor is the name of the processor, as far as the system tells.
func processor() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// features lists what the kernels can make use of.
func features() string {
	x, a := &cpu.X86, &cpu.ARM64
	var have []string
	for _, f := range []struct {
		name string
		has  bool
	}{
		{"avx2", x.HasAVX2}, {"fma", x.HasFMA}, {"f16c", x.HasF16C}, {"avx512f", x.HasAVX512F}, {"avx512bw", x.HasAVX512BW},
		{"avx512dq", x.HasAVX512DQ}, {"avx512vl", x.HasAVX512VL}, {"avx512bf16", x.HasAVX512BF16}, {"asimd", a.HasASIMD}, {"sve", a.HasSVE},
	} {
		if f.has {
			have = append(have, f.name)
		}
	}
	if len(have) == 0 {
		return ""
	}
	return "(" + strings.Join(have, " ") + ")"
}
