// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package agent

import (
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/guest/proto"
)

// tolerated is how far off the clock may be without being stepped.
const tolerated = 50 * time.Millisecond

func (a *Agent) setTime(q proto.SetTimeRequest) (any, error) {
	return nil, step(time.Unix(0, q.UnixNano), q.Monotone)
}

// step sets the clock when it is off; monotone never back.
func step(to time.Time, monotone bool) error {
	off := time.Until(to)
	if off.Abs() <= tolerated || monotone && off < 0 {
		return nil
	}
	t := unix.NsecToTimespec(to.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &t); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}

// maxEntropy is more than the kernel's pool holds.
const maxEntropy = 512

func (a *Agent) addEntropy(q proto.EntropyRequest) (any, error) { return nil, entropy(q.Entropy) }

// entropy mixes bytes of the host into the kernel's, credits them, and reseeds at
// once: clones of one machine must differ from their first random byte on.
func entropy(b []byte) error {
	if len(b) == 0 || len(b) > maxEntropy {
		return &hcs.Error{Code: hcs.CodeInvalidArg, Field: "Entropy", Message: fmt.Sprintf("%d bytes, wanted 1 to %d", len(b), maxEntropy)}
	}
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info := struct { // struct rand_pool_info
		bits, size int32
		buf        [maxEntropy]byte
	}{bits: int32(8 * len(b)), size: int32(len(b))}
	copy(info.buf[:], b)
	_, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info)))
	runtime.KeepAlive(&info)
	if e != 0 {
		return fmt.Errorf("add entropy: %w", e)
	}
	if err := unix.IoctlSetInt(int(f.Fd()), unix.RNDRESEEDCRNG, 0); err != nil {
		return fmt.Errorf("reseed: %w", err)
	}
	return nil
}
