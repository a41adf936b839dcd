// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/held"
	"gatehouse.dev/gatehouse/internal/compute/model"
	"gatehouse.dev/gatehouse/internal/failpoint"
	"gatehouse.dev/gatehouse/internal/resource"
	"gatehouse.dev/gatehouse/internal/store"
)

// Limits of verbs, as documented for clients.
const (
	createLimit    = 60 * time.Second
	startLimit     = 60 * time.Second
	terminateLimit = 20 * time.Second
	undoLimit      = 30 * time.Second
)

// Create makes a system, and starts it if asked. id must be free: an ephemeral
// object is never "the same". When it fails nothing remains.
func (h *HCS) Create(ctx context.Context, id string, doc hcs.ComputeSystem, o CreateOptions) (Created, error) {
	const op = "create"
	if h.life.Err() != nil {
		return Created{}, fail(op, id, &hcs.Error{Code: hcs.CodeServiceDisconnect, Message: "the service is going down"})
	}
	who := resource.CallerFrom(ctx)
	doc = model.Normalize(id, who.Owner(), doc)
	asked := doc
	grant, err := model.Decide(*h.policy.Load(), who, doc)
	if err != nil {
		return Created{}, fail(op, id, err)
	}
	doc = grant.Apply(doc)
	if err := model.Validate(id, doc, h.facts); err != nil {
		return Created{}, fail(op, id, err)
	}
	if err := h.allowed(grant, doc); err != nil {
		return Created{}, fail(op, id, err)
	}
	devices, err := checkHost(doc.Container)
	if err != nil {
		return Created{}, fail(op, id, err)
	}
	plan, err := h.plan(id, doc)
	if err == nil {
		plan.row.By, plan.grant, plan.open = who, grant, asked.Container != nil && asked.Container.Isolation == hcs.IsolationDefault
	}
	if err != nil {
		return Created{}, fail(op, id, err)
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	ctx, cancel := context.WithTimeout(ctx, createLimit)
	defer cancel()
	s, err := h.reserve(ctx, plan.row, stop)
	if err != nil {
		return Created{}, fail(op, id, err)
	}
	defer close(s.undone)
	m := &making{h: h, s: s, plan: plan, devices: devices, o: o}
	out, err := m.run(ctx)
	if err != nil {
		if e := m.undo(ctx); e != nil {
			h.log.Warn("a create that failed left something; it is tried again", "system", id, "runtime", plan.row.RuntimeID, "err", e)
		}
		return Created{}, fail(op, id, interrupted(ctx, o.Start, err))
	}
	h.log.Info("system created", "system", id, "runtime", plan.row.RuntimeID, "state", s.row.Load().State)
	return out, nil
}

// Causes for which a create under way is cut short.
var (
	errTerminated = errors.New("terminated")
	errWorkerDied = errors.New("its worker died")
)

// interrupted says why ctx ended, if that is why the verb failed.
func interrupted(ctx context.Context, start bool, err error) error {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, context.DeadlineExceeded):
		return &hcs.Error{Code: hcs.CodeOperationTimeout, Message: "not done in time", Err: err}
	case errors.Is(cause, errTerminated) && start:
		return &hcs.Error{Code: hcs.CodeTerminatedDuringStart, Message: "terminated on the way"}
	case errors.Is(cause, errTerminated):
		return &hcs.Error{Code: hcs.CodeTerminated, Message: "terminated on the way"}
	case errors.Is(cause, errWorkerDied):
		return &hcs.Error{Code: hcs.CodeUnexpectedExit, Err: errWorkerDied}
	}
	return err
}

// plan is a row with every id that the create will use, and the endpoint
// documents that carry them.
type plan struct {
	row       *row
	endpoints []json.RawMessage
	grant     model.Grant
	open      bool // the document left the isolation open
}

func (h *HCS) plan(id string, doc hcs.ComputeSystem) (plan, error) {
	r := &row{ID: id, RuntimeID: uuid.NewString(), State: stateCreating, Doc: doc, CreateTime: time.Now().UTC(),
		Image: doc.Container.Image, Processes: map[string]processRow{}}
	p := plan{row: r}
	n := doc.Container.Networking
	if n == nil {
		return p, nil
	}
	for i, raw := range n.Endpoints {
		out, ep, err := model.Endpoint(raw, uuid.NewString(), id)
		if err != nil {
			return p, &hcs.Error{Code: hcs.CodeInvalidJSON, Field: fmt.Sprintf("Container.Networking.Endpoints[%d]", i), Err: err}
		}
		p.endpoints = append(p.endpoints, out)
		r.Endpoints = append(r.Endpoints, ep)
	}
	switch {
	case len(p.endpoints) > 0:
		r.Namespace, r.Plugged = uuid.NewString(), true
	case n.Namespace != "":
		r.Namespace = n.Namespace
	}
	return p, nil
}

// reserve takes the Id and commits the row, before any resource is made.
func (h *HCS) reserve(ctx context.Context, r *row, cancel context.CancelCauseFunc) (*system, error) {
	s := newSystem(h, r)
	s.cancel = cancel
	for {
		h.mu.Lock()
		old := h.byID[r.ID]
		if old == nil {
			h.byID[r.ID], h.byRID[r.RuntimeID] = s, s
			h.mu.Unlock()
			break
		}
		o := old.row.Load()
		switch {
		case !o.stopped():
			h.mu.Unlock()
			return nil, &hcs.Error{Code: hcs.CodeSystemAlreadyExists, Message: fmt.Sprintf("system %q exists (%s); choose another name or end it with: gatehouse rm -f %s",
				r.ID, strings.ToLower(string(o.State)), r.ID)}
		case o.keep() && !o.Forgotten:
			h.mu.Unlock()
			return nil, &hcs.Error{Code: hcs.CodeSystemAlreadyExists, Message: fmt.Sprintf("system %q exists (stopped, kept); remove it with: gatehouse rm %s", r.ID, r.ID)}
		}
		select {
		case <-old.gone: // its network is gone: the new one may have its address
			if h.byID[r.ID] == old {
				delete(h.byID, r.ID)
			}
			h.mu.Unlock()
		default:
			h.mu.Unlock()
			select {
			case <-old.gone:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	if _, err := h.o.Store.Update(func(tx *store.Tx) error { return systems().Put(tx, r.RuntimeID, *r) }); err != nil {
		h.drop(s)
		return nil, fmt.Errorf("store: %w", err)
	}
	return s, nil
}

// making is one create under way.
type making struct {
	h *HCS
	s *system
	plan
	devices []specs.LinuxDevice
	o       CreateOptions

	image   Image
	plugged Plugged
}

func (m *making) run(ctx context.Context) (Created, error) {
	r := m.row
	if err := failpoint.Hit("compute.reserved"); err != nil {
		return Created{}, err
	}
	w, silo, err := m.make(ctx)
	if err != nil {
		return Created{}, err
	}
	fill := func(c *change) {
		c.Image, c.Command, c.StopSignal, c.NetNsPath = r.Image, silo.Spec.Process.Args, silo.StopSignal, m.plugged.NetNsPath
		if m.image.Name != "" {
			c.Image = m.image.Name
		}
	}
	if m.o.Attach != nil {
		conn, early, err := m.o.Attach(r.RuntimeID)
		if err != nil {
			return Created{}, fmt.Errorf("attach: %w", err)
		}
		if err := w.Attach(ctx, initKey, m.o.AttachOptions, conn, early); err != nil {
			return Created{}, fmt.Errorf("attach: %w", err)
		}
	}
	var out Created
	if !m.o.Start {
		out.Revision, err = m.s.commit(func(c *change) error { fill(c); c.created(); return nil })
		if err != nil {
			return out, err
		}
		m.lease(&out)
		m.h.pump(m.s)
		out.Properties = m.s.row.Load().base()
		return out, nil
	}
	if _, err := w.Start(ctx); err != nil {
		return out, fmt.Errorf("start: %w", err)
	}
	if err := failpoint.Hit("compute.started"); err != nil {
		return out, err
	}
	if err := ctx.Err(); err != nil {
		return out, err
	}
	// The journal's first entries make the row Created and Running at once.
	m.s.write.Lock()
	c := &change{row: m.s.row.Load().clone()}
	fill(c)
	m.s.row.Store(c.row)
	m.s.write.Unlock()
	m.h.pump(m.s)
	now, err := m.s.until(ctx, func(r *row) bool { return r.State != stateCreating })
	if err != nil {
		return out, err
	}
	m.lease(&out)
	out.Properties, out.Process, out.Revision = now.base(), now.init(), m.h.o.Store.Revision()
	return out, nil
}

func (m *making) lease(out *Created) {
	if m.o.Lease {
		out.Lease = m.s.lease()
	}
}

// make plugs the network beside everything else: the image, the scratch and the
// worker. A namespace of our own has its path before it exists; only one that is
// given, and the files in etc, wait for the plug.
func (m *making) make(ctx context.Context) (held.Client, model.Silo, error) {
	plugged := make(chan error, 1)
	plug := func() {
		err := m.plug(ctx)
		if err == nil {
			err = failpoint.Hit("compute.plugged")
		}
		plugged <- err
	}
	if m.row.Plugged {
		go plug()
	} else {
		plug()
	}
	w, silo, err := m.worker(ctx)
	if e := <-plugged; err == nil {
		err = e
	}
	if err != nil {
		return nil, silo, err
	}
	if err := m.writeEtc(m.etc()); err != nil {
		return nil, silo, fmt.Errorf("make scratch: %w", err)
	}
	return w, silo, failpoint.Hit("compute.spawned")
}

// worker resolves the image, makes the scratch and starts the worker.
func (m *making) worker(ctx context.Context) (held.Client, model.Silo, error) {
	var none model.Silo
	if ref := m.row.Doc.Container.Image; ref != "" {
		var err error
		if m.image, err = m.h.o.Images.Use(ctx, m.row.RuntimeID, ref); err != nil {
			return nil, none, &hcs.Error{Code: codeOf(err), Field: "Container.Image", Err: err}
		}
		if err := m.platform(); err != nil {
			return nil, none, err
		}
	}
	spec, silo, err := m.prepare(ctx)
	if err != nil {
		return nil, none, err
	}
	if err := failpoint.Hit("compute.prepared"); err != nil {
		return nil, none, err
	}
	w, err := m.h.o.Workers.Spawn(ctx, spec)
	if err != nil {
		return nil, none, fmt.Errorf("start worker: %w", err)
	}
	m.s.setWorker(w)
	return w, silo, nil
}

// netNsPath may be asked before the plug is done.
func (m *making) netNsPath() string {
	if m.row.Plugged {
		return m.h.o.Instance.NetNs(m.row.Namespace)
	}
	return m.plugged.NetNsPath
}

// etc is where the generated /etc/hosts, hostname and resolv.conf of the system are.
func (m *making) etc() string {
	return filepath.Join(m.h.o.Instance.Scratch(m.row.RuntimeID), "etc")
}

func (m *making) plug(ctx context.Context) (err error) {
	r := m.row
	n := r.Doc.Container.Networking
	switch {
	case n == nil:
	case r.Plugged:
		m.plugged, err = m.h.o.Networks.Plug(ctx, r.RuntimeID, r.Namespace, m.endpoints)
		if err != nil {
			return err // it says that it is the network's
		}
	case n.Namespace != "":
		m.plugged, err = m.h.o.Networks.Look(ctx, n.Namespace)
		if err != nil {
			return &hcs.Error{Code: codeOf(err), Field: "Container.Networking.Namespace", Err: err}
		}
	case n.NetNsPath != "":
		m.plugged.NetNsPath = n.NetNsPath
	case n.NetworkSharedContainerName != "":
		const field = "Container.Networking.NetworkSharedContainerName"
		other := m.h.look(n.NetworkSharedContainerName)
		if other == nil || !owns(m.row.By, other) || other == m.s || other.row.Load().State == stateCreating {
			return &hcs.Error{Code: hcs.CodeSystemNotFound, Field: field, Message: fmt.Sprintf("system %q not found", n.NetworkSharedContainerName)}
		}
		o := other.row.Load()
		if o.stopped() {
			return &hcs.Error{Code: hcs.CodeSystemAlreadyStopped, Field: field, Message: fmt.Sprintf("system %q is stopped; its network is gone", o.ID)}
		}
		switch {
		case o.Doc.Container.Isolation == hcs.IsolationLibraryOS:
			err = &hcs.Error{Code: hcs.CodeNotSupported, Message: fmt.Sprintf("system %q is a library OS, which shares its network with nobody", o.ID)}
		case o.Namespace != "":
			m.plugged, err = m.h.o.Networks.Look(ctx, o.Namespace)
		case o.NetNsPath != "":
			m.plugged.NetNsPath = o.NetNsPath
		case o.Processes[initKey].PID != 0:
			m.plugged.NetNsPath = fmt.Sprintf("/proc/%d/ns/net", o.Processes[initKey].PID)
		default:
			err = &hcs.Error{Code: hcs.CodeInvalidState, Message: fmt.Sprintf("system %q has no network before it runs", o.ID)}
		}
		if err != nil {
			return &hcs.Error{Code: codeOf(err), Field: field, Err: err}
		}
	}
	return nil
}

// prepare makes the scratch and compiles the worker's spec.
func (m *making) prepare(ctx context.Context) (held.Spec, model.Silo, error) {
	r, c := m.row, m.row.Doc.Container
	root, err := m.root()
	if err != nil {
		return held.Spec{}, model.Silo{}, err
	}
	var config *ispec.ImageConfig
	if c.Image != "" {
		config = &m.image.Config
	}
	name, err := model.InitUser(r.Doc, config)
	if err != nil {
		return held.Spec{}, model.Silo{}, err
	}
	read := stack(root.Lower).read
	if root.Path != "" {
		read = func(name string) ([]byte, error) { return readInRoot(root.Path, name) }
	}
	passwd, group, err := userFiles(read)
	if err != nil {
		return held.Spec{}, model.Silo{}, err
	}
	user, err := model.ResolveUser(name, passwd, group)
	if err != nil {
		return held.Spec{}, model.Silo{}, &hcs.Error{Code: hcs.CodeInvalidArg, Field: "Container.InitProcess.User", Err: err}
	}
	facts := m.h.facts
	if r.inMachine() {
		facts = model.GuestFacts(facts)
	}
	cgroup := m.h.o.Instance.Cgroup + "/" + r.RuntimeID
	silo, err := model.Compile(model.Input{ID: r.ID, RuntimeID: r.RuntimeID, Doc: r.Doc, Image: config, Facts: facts,
		User: user, NetNsPath: m.netNsPath(), OwnNetNs: r.Plugged, EtcDir: m.etc(), CgroupPath: cgroup, Devices: m.devices})
	if err != nil {
		return held.Spec{}, model.Silo{}, err
	}
	spec := held.Spec{RuntimeID: r.RuntimeID, ID: r.ID, Dir: m.h.o.Instance.Worker(r.RuntimeID),
		Runtime: m.h.o.Runtime, RuntimeRoot: filepath.Join(m.h.o.Instance.Run, "runtime"),
		OCI: silo.Spec, Root: root, Terminal: silo.Terminal, ConsoleSize: silo.ConsoleSize, Stdin: silo.Stdin,
		LogMaxBytes: m.h.o.LogMaxBytes, CgroupPath: cgroup, StopSignal: silo.StopSignal}
	if c.Isolation == hcs.IsolationLibraryOS {
		spec.Runtime, spec.RuntimeRoot = m.h.o.LibraryOS, filepath.Join(spec.Dir, "library")
		spec.Library = &held.Library{Platform: m.h.o.LibraryPlatform, HostSockets: len(c.MappedPipes) > 0}
	}
	if silo.Log {
		spec.LogPath = m.h.logPath(r.RuntimeID)
	}
	if r.inMachine() {
		if err := m.machine(ctx, &spec); err != nil {
			return held.Spec{}, model.Silo{}, err
		}
	}
	return spec, silo, nil
}

func (h *HCS) logPath(rid string) string { return filepath.Join(h.o.Instance.Scratch(rid), "log") }

// root decides on the root file system and makes its writable part.
func (m *making) root() (held.Root, error) {
	c := m.row.Doc.Container
	st := hcs.Storage{}
	if c.Storage != nil {
		st = *c.Storage
	}
	var root held.Root
	root.Lower = append(root.Lower, m.image.Layers...)
	for _, l := range st.Layers {
		root.Lower = append(root.Lower, l.Path)
	}
	if len(root.Lower) == 0 {
		if st.Path == "" {
			return root, &hcs.Error{Code: hcs.CodeInvalidLayer, Field: "Container.Image", Message: "the image has no layers"}
		}
		root.Path = st.Path
		return root, nil
	}
	dir := st.Path
	if dir == "" {
		dir = m.h.o.Instance.Scratch(m.row.RuntimeID)
	}
	root.Upper, root.Work = filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	// Only the service's user may look into a scratch; the upper's own mode is what
	// the container sees on "/".
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return root, fmt.Errorf("make scratch: %w", err)
	}
	for d, mode := range map[string]os.FileMode{root.Upper: 0o755, root.Work: 0o700} {
		if err := os.Mkdir(d, mode); err != nil && !os.IsExist(err) {
			return root, fmt.Errorf("make scratch: %w", err)
		} else if err == nil {
			if err := os.Chmod(d, mode); err != nil { // whatever the umask is
				return root, fmt.Errorf("make scratch: %w", err)
			}
		}
	}
	return root, nil
}

func (m *making) writeEtc(dir string) error {
	c := m.row.Doc.Container
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	r := model.Resolver{Servers: m.plugged.Servers, Search: m.plugged.Search, Options: m.plugged.Options}
	search, unqualified := "", false
	if n := c.Networking; n != nil {
		search, unqualified = n.DnsSearchList, n.AllowUnqualifiedDnsQuery
	}
	resolv := r.WithSearch(search).Text(unqualified)
	if m.plugged.NetNsPath != "" && len(r.Servers) == 0 {
		// A namespace made by another resolves as its maker does.
		if b, err := os.ReadFile("/etc/resolv.conf"); err == nil {
			resolv = string(b)
		}
	}
	for name, text := range map[string]string{
		"hostname":    c.GuestOs.HostName + "\n",
		"hosts":       model.Hosts(c.GuestOs.HostName, m.row.ID, m.plugged.Addrs),
		"resolv.conf": resolv,
	} {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			return err
		}
		if err := os.Chmod(p, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// undo removes whatever a create made, in reverse, and then its row. What cannot
// be removed now keeps its row and is tried again.
func (m *making) undo(ctx context.Context) error {
	ctx, cancel := detached(ctx, undoLimit)
	defer cancel()
	m.s.write.Lock()
	seen := m.s.row.Load().State != stateCreating
	m.s.abandoned = !seen
	m.s.write.Unlock()
	if seen { // its journal was faster than its end: it goes like any other
		if err := m.h.terminate(ctx, m.s, endClient); err != nil {
			return err
		}
		_, err := m.s.commit(func(c *change) error { c.forget(); c.Unclean = c.keep(); return nil })
		return errors.Join(err, m.h.letGo(ctx, m.s, nil))
	}
	m.h.mu.Lock()
	if m.h.byID[m.row.ID] == m.s {
		delete(m.h.byID, m.row.ID) // the Id is free again, whatever is left
	}
	m.h.mu.Unlock()
	return m.h.undoCreate(ctx, m.s)
}

// undoCreate removes all that a row in state creating may have made. May be repeated.
func (h *HCS) undoCreate(ctx context.Context, s *system) error {
	r := s.row.Load()
	err := errors.Join(
		h.endWorker(ctx, s),
		h.unplug(ctx, r),
		h.release(ctx, r),
		os.RemoveAll(h.o.Instance.Scratch(r.RuntimeID)),
	)
	if err != nil {
		return err
	}
	if _, err := h.o.Store.Update(func(tx *store.Tx) error { return systems().Delete(tx, r.RuntimeID) }); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	h.drop(s)
	return nil
}
