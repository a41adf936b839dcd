// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// Maps of layouts that this build has no types of are read as bytes. The ebpf
// module does batches of typed slices only, and does not tell a map's types.

// enum bpf_cmd, linux/bpf.h.
const (
	bpfObjGetInfoByFD = 15
	bpfMapLookupBatch = 24
	bpfMapUpdateBatch = 26
)

// batchAttr is the member "batch" of union bpf_attr, linux/bpf.h. Pointers are
// eight bytes there and on the machines we run on.
type batchAttr struct {
	in, out, keys, values unsafe.Pointer
	count, fd             uint32
	elemFlags, flags      uint64
}

func batchCall(cmd uintptr, m *ebpf.Map, a *batchAttr) error {
	a.fd = uint32(m.FD())
	_, _, e := unix.Syscall(unix.SYS_BPF, cmd, uintptr(unsafe.Pointer(a)), unsafe.Sizeof(*a))
	runtime.KeepAlive(m)
	if e != 0 {
		return e
	}
	return nil
}

// eachEntry calls f with the key and value of every entry of a hash table or an
// array, which f must not keep. Entries that come or go meanwhile may be missed
// or seen twice.
func eachEntry(m *ebpf.Map, f func(k, v []byte) error) error {
	ks, vs := int(m.KeySize()), int(m.ValueSize())
	for size := min(dumpBatch, int(m.MaxEntries())); ; size *= 2 {
		size = min(size, int(m.MaxEntries()))
		keys, values := make([]byte, size*ks), make([]byte, size*vs)
		// The kernel's cursor: a bucket for hash tables, the last key for arrays.
		var cursors [2][4]byte
		a := batchAttr{out: unsafe.Pointer(&cursors[0]), keys: unsafe.Pointer(&keys[0]), values: unsafe.Pointer(&values[0])}
		for i := 0; ; i++ {
			a.count = uint32(size)
			err := batchCall(bpfMapLookupBatch, m, &a)
			if err != nil && !errors.Is(err, unix.ENOENT) {
				if isNoSpace(err) && size < int(m.MaxEntries()) {
					break // a bucket longer than the batch: all again with a larger one
				}
				return fmt.Errorf("dump: %w", err)
			}
			for n := range int(a.count) {
				if err := f(keys[n*ks:(n+1)*ks], values[n*vs:(n+1)*vs]); err != nil {
					return err
				}
			}
			if err != nil {
				return nil // the end
			}
			a.in, a.out = unsafe.Pointer(&cursors[i%2]), unsafe.Pointer(&cursors[(i+1)%2])
		}
	}
}

// updateBatch writes rows and tells how many were written before an error.
func updateBatch(m *ebpf.Map, keys, values []byte, rows int) (int, error) {
	a := batchAttr{keys: unsafe.Pointer(&keys[0]), values: unsafe.Pointer(&values[0]), count: uint32(rows)}
	err := batchCall(bpfMapUpdateBatch, m, &a)
	return int(a.count), err
}

// mapInfo is the part of struct bpf_map_info, linux/bpf.h, up to what we need.
type mapInfo struct {
	_                  [68]byte
	keyType, valueType uint32
	_                  uint32
}

// mapTypes asks the kernel how the content of a map is laid out.
func mapTypes(m *ebpf.Map) (key, value btf.Type, err error) {
	var info mapInfo
	attr := struct {
		fd, size uint32
		info     unsafe.Pointer
	}{uint32(m.FD()), uint32(unsafe.Sizeof(info)), unsafe.Pointer(&info)}
	_, _, e := unix.Syscall(unix.SYS_BPF, bpfObjGetInfoByFD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(m)
	if e != 0 {
		return nil, nil, fmt.Errorf("ask for the types of map %s: %w", m, e)
	}
	h, err := m.Handle()
	if err != nil {
		return nil, nil, err
	}
	defer h.Close()
	s, err := h.Spec(nil)
	if err != nil {
		return nil, nil, fmt.Errorf("types of map %s: %w", m, err)
	}
	if key, err = s.TypeByID(btf.TypeID(info.keyType)); err != nil {
		return nil, nil, fmt.Errorf("type of the keys of map %s: %w", m, err)
	}
	if value, err = s.TypeByID(btf.TypeID(info.valueType)); err != nil {
		return nil, nil, fmt.Errorf("type of the values of map %s: %w", m, err)
	}
	return key, value, nil
}
