// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package agent

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/guest/proto"
)

// errNoAnswer: the goodbye is the answer.
var errNoAnswer = errors.New("no answer")

// stopLimit is how long containers may take to stop when the machine does.
const stopLimit = 10 * time.Second

func (a *Agent) shutdownGraceful(q proto.ShutdownRequest) (any, error) {
	if q.ContainerId == proto.VM {
		return a.shutdownMachine(stopLimit)
	}
	c, err := a.container(q.ContainerId)
	if err != nil {
		return nil, err
	}
	return nil, a.stopContainer(c, q.Signal)
}

// stopContainer asks a container to stop; its end is told when it comes.
func (a *Agent) stopContainer(c *container, sig hcs.Signal) error {
	if c.hasEnded() {
		return &hcs.Error{Code: hcs.CodeSystemAlreadyStopped}
	}
	c.mu.Lock()
	c.asked = true
	started := !c.started.IsZero()
	c.mu.Unlock()
	if !started {
		return a.kill(c, hcs.GracefulExit)
	}
	if sig == 0 {
		sig = hcs.SIGTERM
		if s, err := hcs.ParseSignal(c.config.OCI.Annotations[stopSignal]); err == nil {
			sig = s
		}
	}
	if c.config.Mode == proto.ModeInit {
		_, err := a.reaper.Kill(c.init.PID, int(sig))
		return err
	}
	for _, pid := range c.group.Processes() {
		if pid != c.init.PID {
			_ = unix.Kill(pid, unix.Signal(sig)) // one that is just ending is no matter
		}
	}
	go func() { // the holder goes when all others have
		for !c.hasEnded() {
			if p := c.group.Processes(); len(p) == 1 && p[0] == c.init.PID {
				_, _ = a.reaper.Kill(c.init.PID, int(unix.SIGKILL))
				return
			}
			time.Sleep(4 * retry)
		}
	}()
	return nil
}

func (a *Agent) shutdownForced(q proto.ShutdownRequest) (any, error) {
	if q.ContainerId == proto.VM {
		return a.shutdownMachine(0)
	}
	c, err := a.container(q.ContainerId)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.forced = true
	c.mu.Unlock()
	if c.hasEnded() {
		return nil, nil
	}
	return nil, a.kill(c, hcs.ForcedExit)
}

// kill ends every process of a container; how is what a container without any is
// said to have ended by.
func (a *Agent) kill(c *container, how hcs.ExitType) error {
	c.mu.Lock()
	never := c.engine != nil && c.started.IsZero()
	if never {
		c.started = time.Now()
	}
	c.mu.Unlock()
	if never {
		a.neverStarted(c, how)
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return c.group.Kill(ctx)
}

// shutdownMachine stops every container, says goodbye and powers off.
func (a *Agent) shutdownMachine(limit time.Duration) (any, error) {
	a.mu.Lock()
	again := a.stopping
	a.stopping = true
	a.mu.Unlock()
	if again && limit > 0 {
		return nil, errNoAnswer
	}
	all := a.all()
	if limit > 0 {
		for _, c := range all {
			_ = a.stopContainer(c, 0) // one that has ended is no matter
		}
		end := time.After(limit)
		for _, c := range all {
			select {
			case <-c.ended:
			case <-end:
				end = time.After(0)
			}
		}
	}
	for _, c := range all {
		if c.hasEnded() {
			continue
		}
		if err := a.kill(c, hcs.ForcedExit); err != nil {
			log("%v", err)
		}
	}
	for _, c := range all {
		select {
		case <-c.ended:
		case <-time.After(drainLimit + time.Second):
		}
	}
	a.disks.unmountAll()
	a.notify(proto.NotifyGoodbye, proto.GoodbyeNotification{Base: proto.Base{ContainerId: proto.VM}, Reason: proto.GoodbyePowerOff})
	if err := powerOff(); err != nil {
		return nil, err
	}
	return nil, errNoAnswer
}
