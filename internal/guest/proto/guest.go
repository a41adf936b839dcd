// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package proto

import (
	"fmt"
	"net"
	"sync"

	"github.com/hashicorp/yamux"
)

// Guest is a session seen from the guest.
type Guest struct {
	mux     *yamux.Session
	control net.Conn
	write   sync.Mutex // one message at a time on the control stream
}

// Answer waits for a Hello on conn and does the guest's part of the preamble. A
// Hello of other versions is answered and the next one waited for. A Hello that
// comes in the middle of the session ends it; a conn that is an Unreader gets it back.
func Answer(conn Conn) (*Guest, error) {
	for {
		hello, err := ReadHello(conn)
		if err != nil {
			return nil, err
		}
		w := hello.Answer()
		if _, err := conn.Write(w.Bytes()); err != nil {
			return nil, err
		}
		if w.Version != 0 {
			break
		}
	}
	mux, err := Mux(&frames{Conn: conn}, false)
	if err != nil {
		return nil, err
	}
	control, err := mux.Accept()
	if err != nil {
		mux.Close()
		return nil, err
	}
	return &Guest{mux: mux, control: control}, nil
}

// Read returns the next request. One reader at a time.
func (g *Guest) Read() (Message, error) {
	m, err := ReadMessage(g.control)
	if err == nil && !m.Type.IsRequest() {
		err = fmt.Errorf("%w: a host sends no %v", ErrMessage, m.Type)
	}
	return m, err
}

// Respond answers a request.
func (g *Guest) Respond(to Message, doc any) error {
	return g.send(to.Type.Response(), to.ID, doc)
}

// Notify sends a notification.
func (g *Guest) Notify(t Type, doc any) error { return g.send(t, 0, doc) }

func (g *Guest) send(t Type, id uint64, doc any) error {
	m, err := Encode(t, id, doc)
	if err != nil {
		return err
	}
	b, err := m.Bytes()
	if err != nil {
		return err
	}
	g.write.Lock()
	defer g.write.Unlock()
	_, err = g.control.Write(b)
	return err
}

// Accept waits for the next stream that the host opens. Its head is still to be
// read, with ReadHead.
func (g *Guest) Accept() (Stream, error) {
	s, err := g.mux.AcceptStream()
	if err != nil {
		return Stream{}, err
	}
	return Stream{s}, nil
}

// Done is closed at the end of the session.
func (g *Guest) Done() <-chan struct{} { return g.mux.CloseChan() }

// Close ends the session and closes the connection.
func (g *Guest) Close() error { return g.mux.Close() }
