// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package agent

import (
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/silo"
	"gatehouse.dev/gatehouse/internal/guest/proto"
)

// properties answers what was asked for; a part that fails leaves the others.
func (a *Agent) properties(q proto.PropertiesRequest) (any, error) {
	r := proto.PropertiesResponse{Properties: hcs.Properties{Id: q.ContainerId, SystemType: hcs.TypeContainer, RuntimeOsType: "Linux"}}
	p := &r.Properties
	group := silo.Cgroup{On: silo.Cgroups{V2: cgroupRoot}, Path: groupName}
	since := time.Time{}
	if q.ContainerId == proto.VM {
		p.SystemType = hcs.TypeVirtualMachine
		if up, err := uptime(); err == nil {
			since = time.Now().Add(-up)
		}
	} else {
		c, err := a.container(q.ContainerId)
		if err != nil {
			return nil, err
		}
		group = c.group
		c.mu.Lock()
		since = c.started
		c.mu.Unlock()
		p.State, p.Stopped = hcs.StateRunning, c.hasEnded()
		if since.IsZero() {
			p.State = hcs.StateCreated
		}
		if p.Stopped {
			p.State = hcs.StateStopped
		}
	}
	for _, t := range q.Query.PropertyTypes {
		var err error
		switch t {
		case hcs.PropertyStatistics:
			now := time.Now()
			s := group.Statistics(now)
			if !since.IsZero() {
				s.ContainerStartTime, s.Uptime100ns = since, uint64(now.Sub(since)/100)
			}
			p.Statistics = &s
		case hcs.PropertyProcessList:
			p.ProcessList = group.ProcessDetails()
		case hcs.PropertyMemory, hcs.PropertyGuestMemory:
			p.Memory, err = memory()
		default:
			err = &hcs.Error{Code: hcs.CodeNotSupported, Field: "Query.PropertyTypes", Message: fmt.Sprintf("%q has no answer inside", t)}
		}
		if err != nil {
			if p.PropertyResponses == nil {
				p.PropertyResponses = map[hcs.PropertyType]hcs.PropertyResponse{}
			}
			e := hcs.ResultOf(err)
			p.PropertyResponses[t] = hcs.PropertyResponse{Error: &e}
		}
	}
	return r, nil
}

// memory of the machine in pages of 4 KiB.
func memory() (*hcs.MemoryInformation, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	pages := func(key string) uint64 {
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, key+":"); ok {
				kb, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
				return kb / 4
			}
		}
		return 0
	}
	return &hcs.MemoryInformation{VirtualNodeCount: 1, VirtualMachineMemory: &hcs.VirtualMachineMemory{
		AssignedMemory: pages("MemTotal"), AvailableMemory: int32(min(pages("MemAvailable"), math.MaxInt32))}}, nil
}

// uptime of the kernel.
func uptime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0, err
	}
	return time.Duration(t.Nano()), nil
}

// readLimited reads a file that is not larger than it may be.
func readLimited(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("larger than %d bytes", limit)
	}
	return b, err
}
