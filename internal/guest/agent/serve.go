// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package agent

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/silo"
	"gatehouse.dev/gatehouse/internal/guest/proto"
)

// Agent is the state of the machine.
type Agent struct {
	reaper  *silo.Reaper
	modules *loader
	disks   disks
	nets    nets

	mu         sync.Mutex // guards the rest
	session    *proto.Guest
	streams    *streams
	containers map[string]*container
	processes  map[uint32]*process
	lanes      map[string]chan struct{} // closed when a container's last request is answered
	stopping   bool
}

func newAgent(r *silo.Reaper, m *loader) *Agent {
	return &Agent{reaper: r, modules: m, disks: disks{modules: m}, nets: nets{modules: m}, containers: map[string]*container{},
		processes: map[uint32]*process{}, lanes: map[string]chan struct{}{}}
}

// handler answers one kind of request; a nil answer is success without more.
type handler func(a *Agent, m proto.Message) (any, error)

// on decodes what a request carries.
func on[Q any](f func(*Agent, Q) (any, error)) handler {
	return func(a *Agent, m proto.Message) (any, error) {
		var q Q
		if err := proto.Decode(m.Body, &q); err != nil {
			return nil, &hcs.Error{Code: hcs.CodeInvalidJSON, Err: err}
		}
		return f(a, q)
	}
}

// rule of a request. What overtakes does not wait for the container's others.
type rule struct {
	handle   handler
	overtake bool
}

var rules map[proto.Type]rule

func init() {
	rules = map[proto.Type]rule{
		proto.NegotiateProtocol:    {on((*Agent).negotiate), true},
		proto.Create:               {on((*Agent).create), false},
		proto.Start:                {on((*Agent).start), false},
		proto.ShutdownGraceful:     {on((*Agent).shutdownGraceful), false},
		proto.ShutdownForced:       {on((*Agent).shutdownForced), true},
		proto.ExecuteProcess:       {on((*Agent).execute), false},
		proto.WaitForProcess:       {on((*Agent).wait), true},
		proto.SignalProcess:        {on((*Agent).signal), true},
		proto.ResizeConsole:        {on((*Agent).resize), true},
		proto.GetProperties:        {on((*Agent).properties), true},
		proto.ModifySettings:       {on((*Agent).modify), false},
		proto.DumpStacks:           {on((*Agent).stacks), true},
		proto.DeleteContainerState: {on((*Agent).remove), false},
		proto.UpdateContainer:      {on((*Agent).update), false},
		proto.SetTime:              {on((*Agent).setTime), true},
		proto.AddEntropy:           {on((*Agent).addEntropy), true},
		proto.AddNetwork:           {on((*Agent).addNetwork), false},
		proto.RemoveNetwork:        {on((*Agent).removeNetwork), false},
		proto.Freeze:               {on((*Agent).freeze), false},
		proto.Thaw:                 {on((*Agent).thaw), false},
		proto.CopyFile:             {on((*Agent).copyFile), false},
	}
}

// serve answers one session until it ends.
func (a *Agent) serve(g *proto.Guest) {
	s := newStreams()
	a.mu.Lock()
	a.session, a.streams = g, s
	a.mu.Unlock()
	log("session begins")
	go a.accept(g, s)
	defer s.close()
	for {
		m, err := g.Read()
		if err != nil {
			log("session ends: %v", err)
			return
		}
		if m.Type == proto.Prepare {
			// Its answer is the last of the session.
			err := g.Respond(m, proto.ResultOf(a.prepareTemplate()))
			if err != nil {
				log("prepare: %v", err)
			}
			return
		}
		var base proto.Base
		if err := proto.Decode(m.Body, &base); err != nil {
			_ = g.Respond(m, proto.ResultOf(&hcs.Error{Code: hcs.CodeInvalidJSON, Err: err}))
			continue
		}
		r, ok := rules[m.Type]
		if !ok {
			_ = g.Respond(m, proto.ResultOf(&hcs.Error{Code: hcs.CodeUnknownMessage, Message: m.Type.String()}))
			continue
		}
		before, done := a.lane(base.ContainerId, r.overtake)
		go func() {
			defer close(done)
			if before != nil {
				<-before
			}
			a.answer(g, m, base, r)
		}()
	}
}

// lane puts a request behind the last one of its container. Requests of the
// machine itself, and those that overtake, wait for nobody.
func (a *Agent) lane(id string, overtake bool) (before, done chan struct{}) {
	done = make(chan struct{})
	if overtake || id == proto.VM {
		return nil, done
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	before = a.lanes[id]
	a.lanes[id] = done
	return before, done
}

func (a *Agent) answer(g *proto.Guest, m proto.Message, base proto.Base, r rule) {
	resp, err := r.handle(a, m)
	if err == errNoAnswer {
		return
	}
	if err != nil || resp == nil {
		resp = proto.ResultOf(err)
	}
	if err := g.Respond(m, resp); err != nil {
		log("answer %v of %s: %v", m.Type, base.ContainerId, err)
	}
	if m.Type == proto.NegotiateProtocol {
		log("negotiated")
		a.modules.loadRest()
		if err := a.disks.tools(); err != nil {
			log("tools: %v", err)
		}
	}
}

// notify tells the host something; without a session nobody hears it.
func (a *Agent) notify(t proto.Type, doc any) {
	a.mu.Lock()
	g := a.session
	a.mu.Unlock()
	if g == nil {
		return
	}
	if err := g.Notify(t, doc); err != nil {
		log("notification %v: %v", t, err)
	}
}

// maxTimeZone bounds a TZif file.
const maxTimeZone = 64 << 10

func (a *Agent) negotiate(q proto.NegotiateRequest) (any, error) {
	if q.MinimumVersion > proto.Version || q.MaximumVersion < proto.Version {
		return nil, &hcs.Error{Code: hcs.CodeUnsupportedProtocolVersion,
			Message: fmt.Sprintf("this agent speaks version %d, not %d to %d", proto.Version, q.MinimumVersion, q.MaximumVersion)}
	}
	if q.Time != 0 {
		if err := step(time.Unix(0, q.Time), false); err != nil {
			return nil, err
		}
	}
	if len(q.Entropy) > 0 {
		if err := entropy(q.Entropy); err != nil {
			return nil, err
		}
	}
	if q.HostName != "" {
		if err := unix.Sethostname([]byte(q.HostName)); err != nil {
			return nil, fmt.Errorf("host name: %w", err)
		}
	}
	if len(q.TimeZone) > maxTimeZone {
		return nil, &hcs.Error{Code: hcs.CodeInvalidArg, Field: "TimeZone", Message: "larger than 64 KiB"}
	}
	if len(q.TimeZone) > 0 {
		if err := os.WriteFile("/etc/localtime", q.TimeZone, 0o644); err != nil {
			return nil, err
		}
	}
	up, err := uptime()
	if err != nil {
		return nil, err
	}
	runtimes := []string{"own"}
	return proto.NegotiateResponse{Version: proto.Version, Uptime100ns: uint64(up / 100), Capabilities: proto.Capabilities{
		SupportedSchemaVersions: []hcs.SchemaVersion{{Major: 2, Minor: 0}, {Major: 2, Minor: 6}}, RuntimeOsType: "Linux",
		GuestDefinedCapabilities: proto.GuestCapabilities{NamespaceAddRequestSupported: true, SignalProcessSupported: true,
			DumpStacksSupported: true, DeleteContainerStateSupported: true, UpdateContainerSupported: true, CloneSupported: true,
			DialSupported: true, Runtimes: runtimes},
	}}, nil
}

func (a *Agent) stacks(proto.Base) (any, error) {
	buf := make([]byte, 1<<20)
	return proto.StacksResponse{GuestStacks: string(buf[:runtime.Stack(buf, true)])}, nil
}

// prepareTemplate readies the machine to be a template: there is nothing of anybody in it.
func (a *Agent) prepareTemplate() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.containers) > 0 {
		return &hcs.Error{Code: hcs.CodeInvalidState, Message: fmt.Sprintf("%d containers are here", len(a.containers))}
	}
	a.processes, a.lanes = map[uint32]*process{}, map[string]chan struct{}{}
	return nil
}

// all containers, in no order.
func (a *Agent) all() []*container {
	a.mu.Lock()
	defer a.mu.Unlock()
	var l []*container
	for _, c := range a.containers {
		l = append(l, c)
	}
	return l
}

func (a *Agent) container(id string) (*container, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.containers[id]
	if c == nil {
		return nil, &hcs.Error{Code: hcs.CodeSystemNotFound, Message: fmt.Sprintf("no container %q in this machine", id)}
	}
	return c, nil
}
