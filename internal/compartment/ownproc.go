// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// procUses is how many namespaces see one procfs of ours. Each leaves an entry in the
// list that the next one's look-up walks (see confDirs); unmounting waits for the
// kernel's readers, about a millisecond.
const procUses = 32

// ownProc is a procfs that is mounted nowhere, for settings of namespaces just made:
// in the host's /proc the look-up would walk all namespaces ever seen there. It is
// made when needed.
type ownProc struct {
	mu   sync.Mutex
	made bool
	root int
	uses int
}

// sysctl6 is Host.sysctl6 in the calling thread's namespace.
func (p *ownProc) sysctl6(dev string, pairs ...string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.uses == procUses {
		p.drop()
	}
	if !p.made {
		var err error
		if p.root, err = mountProc(); err != nil {
			return fmt.Errorf("mount procfs: %w", err)
		}
		p.made = true
	}
	p.uses++
	if err := sysctl(p.root, "sys/net/ipv6/conf/"+dev, pairs); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (p *ownProc) drop() {
	if p.made {
		unix.Close(p.root)
	}
	p.made, p.uses = false, 0
}

func (p *ownProc) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop()
}

func mountProc() (int, error) {
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
}
