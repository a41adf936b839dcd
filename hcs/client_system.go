// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcs

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// CreateOptions of Client.Create and Client.Run.
type CreateOptions struct {
	// Start runs the system too; nothing remains if that fails.
	Start bool
	// Strict refuses members that the service does not know.
	Strict bool
}

func (o CreateOptions) values() url.Values {
	v := url.Values{}
	if o.Start {
		v.Set("start", "true")
	}
	if o.Strict {
		v.Set("strict", "true")
	}
	return v
}

// Create makes a system. An Id in use is refused even for an equal document.
func (c *Client) Create(ctx context.Context, id string, doc ComputeSystem, o CreateOptions) (Properties, error) {
	var p Properties
	return p, c.Call(ctx, "POST", query(systemPath(id), o.values()), c.owned(doc), &p)
}

// Run makes and starts a system with its init's stdio attached before init runs,
// in one request. A start that fails is told by Run or by the first Copy of the
// Stdio.
func (c *Client) Run(ctx context.Context, id string, doc ComputeSystem, o CreateOptions, a AttachOptions) (Properties, *Stdio, error) {
	o.Start = true
	v := o.values()
	a.add(v)
	conn, r, h, err := c.upgrade(ctx, "POST", query(systemPath(id), v), StdioUpgrade, c.owned(doc))
	if err != nil {
		return Properties{}, nil, err
	}
	var p Properties
	if err := json.Unmarshal([]byte(h.Get(SystemHeader)), &p); err != nil {
		p = Properties{Id: id}
	}
	return p, newStdio(conn, r), nil
}

func (c *Client) owned(doc ComputeSystem) ComputeSystem {
	if doc.Owner == "" {
		doc.Owner = c.Owner
	}
	return doc
}

// Start runs a Created system.
func (c *Client) Start(ctx context.Context, id string) (ProcessInformation, error) {
	var p ProcessInformation
	return p, c.Call(ctx, "POST", systemPath(id, "start"), nil, &p)
}

// Shutdown asks a system to end; it does not wait for it.
func (c *Client) Shutdown(ctx context.Context, id string, o ShutdownOptions) error {
	return c.Call(ctx, "POST", systemPath(id, "shutdown"), o, nil)
}

// Terminate ends a system and returns when it has stopped; on a stopped one it succeeds.
func (c *Client) Terminate(ctx context.Context, id string) error {
	return c.Call(ctx, "POST", systemPath(id, "terminate"), nil, nil)
}

// Crash ends a system the hard way, for its dump.
func (c *Client) Crash(ctx context.Context, id string, o CrashOptions) error {
	return c.Call(ctx, "POST", systemPath(id, "crash"), o, nil)
}

// Pause freezes a system.
func (c *Client) Pause(ctx context.Context, id string) error {
	return c.Call(ctx, "POST", systemPath(id, "pause"), PauseOptions{}, nil)
}

// Resume thaws a system.
func (c *Client) Resume(ctx context.Context, id string) error {
	return c.Call(ctx, "POST", systemPath(id, "resume"), nil, nil)
}

// Save saves a virtual machine.
func (c *Client) Save(ctx context.Context, id string, o SaveOptions) error {
	return c.Call(ctx, "POST", systemPath(id, "save"), o, nil)
}

// Modify changes settings of a system.
func (c *Client) Modify(ctx context.Context, id string, r ModifySettingRequest) error {
	return c.Call(ctx, "POST", systemPath(id, "modify"), r, nil)
}

// Delete terminates a system and forgets it.
func (c *Client) Delete(ctx context.Context, id string) error {
	return c.Call(ctx, "DELETE", systemPath(id), nil, nil)
}

// Properties returns the base and the parts asked for.
func (c *Client) Properties(ctx context.Context, id string, types ...PropertyType) (Properties, error) {
	var p Properties
	v := url.Values{}
	if len(types) > 0 {
		s := make([]string, len(types))
		for i, t := range types {
			s[i] = string(t)
		}
		v.Set("types", strings.Join(s, ","))
	}
	return p, c.Call(ctx, "GET", query(systemPath(id), v), nil, &p)
}

// Stats returns the counters of a system.
func (c *Client) Stats(ctx context.Context, id string) (Statistics, error) {
	p, err := c.Properties(ctx, id, PropertyStatistics)
	if err != nil {
		return Statistics{}, err
	}
	if p.Statistics == nil {
		if r, ok := p.PropertyResponses[PropertyStatistics]; ok && r.Error != nil {
			return Statistics{}, FromResult(*r.Error)
		}
		return Statistics{}, &Error{Code: CodeInvalidState, Op: "stats", ID: id, Message: "no statistics of a system that is " + string(p.State)}
	}
	return *p.Statistics, nil
}

// Document returns the create document after defaults.
func (c *Client) Document(ctx context.Context, id string) (ComputeSystem, error) {
	var d ComputeSystem
	return d, c.Call(ctx, "GET", systemPath(id, "document"), nil, &d)
}

// Enumerate lists systems; all = stopped ones too.
func (c *Client) Enumerate(ctx context.Context, q SystemQuery, all bool) ([]Properties, error) {
	v := url.Values{}
	if b, err := json.Marshal(q); err == nil && string(b) != "{}" {
		v.Set("query", string(b))
	}
	if all {
		v.Set("all", "true")
	}
	var out []Properties
	return out, c.Call(ctx, "GET", query("/systems", v), nil, &out)
}

// Wait returns the exit status once the system has stopped; any number may wait.
func (c *Client) Wait(ctx context.Context, id string) (SystemExitStatus, error) {
	for {
		resp, err := c.do(ctx, "GET", query(systemPath(id, "exit"), millis(ctx)), nil)
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return SystemExitStatus{}, err
		}
		var s SystemExitStatus
		done, err := waited(resp, &s)
		if done || err != nil {
			return s, err
		}
		if err := ctx.Err(); err != nil {
			return s, err
		}
	}
}

// waited is false when the time ran out.
func waited(resp *http.Response, out any) (bool, error) {
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent {
		return false, nil
	}
	return true, json.NewDecoder(resp.Body).Decode(out)
}

// ClientLease is an open lease on a system. Close gives it back.
type ClientLease struct {
	conn net.Conn
	gone chan struct{}
}

// Lease opens a lease; it also ends when the service goes away.
func (c *Client) Lease(ctx context.Context, id string) (*ClientLease, error) {
	conn, r, _, err := c.upgrade(ctx, "GET", systemPath(id, "handle"), HandleUpgrade, nil)
	if err != nil {
		return nil, err
	}
	l := &ClientLease{conn: conn, gone: make(chan struct{})}
	go func() { // ends with the connection
		r.ReadByte()
		close(l.gone)
	}()
	return l, nil
}

// Gone is closed when the other side ended the lease, or Close did.
func (l *ClientLease) Gone() <-chan struct{} { return l.gone }

// Close gives the lease back.
func (l *ClientLease) Close() error {
	err := l.conn.Close()
	<-l.gone
	return err
}

// ServiceProperties returns what the service says of itself and its host.
func (c *Client) ServiceProperties(ctx context.Context, types ...string) (map[string]json.RawMessage, error) {
	v := url.Values{}
	if len(types) > 0 {
		v.Set("types", strings.Join(types, ","))
	}
	var out map[string]json.RawMessage
	return out, c.Call(ctx, "GET", query("/service/properties", v), nil, &out)
}

func flag(v url.Values, name string, b bool) {
	if b {
		v.Set(name, strconv.FormatBool(b))
	}
}

// Policy is the host's policy in force, whole.
func (c *Client) Policy(ctx context.Context) (Policy, error) {
	var p Policy
	return p, c.Call(ctx, "GET", "/policy", nil, &p)
}

// SetPolicy replaces the host's policy; nil goes back to the configuration's. It
// returns the one in force.
func (c *Client) SetPolicy(ctx context.Context, p *Policy) (Policy, error) {
	var now Policy
	if p == nil {
		return now, c.Call(ctx, "DELETE", "/policy", nil, &now)
	}
	return now, c.Call(ctx, "PUT", "/policy", p, &now)
}
