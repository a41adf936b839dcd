// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"
)

// server answers on a socket; the zero Client finds it by the environment.
func server(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	t.Setenv(SocketEnv, path)
	return new(Client)
}

func TestClientRefusals(t *testing.T) {
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hcs/v2/systems/a@b/start":
			w.WriteHeader(409)
			_ = json.NewEncoder(w).Encode(ResultError{Error: CodeInvalidState.HRESULT(), ErrorMessage: "start a@b: no", ExitCode: 126})
		default:
			http.Error(w, "nothing here", 404)
		}
	})
	_, err := c.Start(t.Context(), "a@b")
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeInvalidState || e.ExitCode != 126 || e.Error() != "start a@b: no (0x80370105)" {
		t.Errorf("record: %v", err)
	}
	if err := c.Delete(t.Context(), "x"); !IsNotExist(err) {
		t.Errorf("no record: %v", err)
	}
	if err := new(Client).Call(t.Context(), "GET", "/x", nil, nil); !IsNotExist(err) {
		t.Errorf("%v", err)
	}
	if err := (&Client{Socket: "/none"}).Delete(t.Context(), "x"); err == nil {
		t.Error("no socket, no error")
	}
}

func TestClientWaitAsksAgain(t *testing.T) {
	n := 0
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		if n++; n < 3 {
			w.WriteHeader(204)
			return
		}
		_ = json.NewEncoder(w).Encode(SystemExitStatus{ExitType: GracefulExit})
	})
	if x, err := c.Wait(t.Context(), "web"); err != nil || x.ExitType != GracefulExit {
		t.Errorf("%+v %v", x, err)
	}
}

func TestClientStdio(t *testing.T) {
	got := make(chan string, 1)
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != StdioUpgrade {
			w.WriteHeader(400)
			return
		}
		if r.URL.Path == "/hcs/v2/systems/refused" {
			w.WriteHeader(409)
			_ = json.NewEncoder(w).Encode(ResultError{Error: CodeSystemAlreadyExists.HRESULT(), ErrorMessage: "create: exists"})
			return
		}
		doc, _ := io.ReadAll(r.Body)
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		// The answer and the first frames in one write: none may be lost.
		b := []byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: gatehouse-stdio\r\n" + SystemHeader + `: {"Id":"web","RuntimeId":"r"}` + "\r\n\r\n")
		b = AppendFrame(b, FrameStdout, []byte("out"))
		b = AppendFrame(b, FrameStderr, []byte("err"))
		if _, err := conn.Write(b); err != nil {
			t.Error(err)
		}
		fr := NewFrameReader(rw)
		_, in, err := fr.Read()
		if err != nil {
			t.Error(err)
		}
		got <- string(doc) + string(in)
		conn.Write(AppendFrame(nil, FrameExit, []byte(`{"Exited":true,"ExitCode":3}`)))
	})
	p, s, err := c.Run(t.Context(), "web", ComputeSystem{Owner: "me"}, CreateOptions{}, AttachOptions{Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	if p.RuntimeId != "r" {
		t.Errorf("properties %+v", p)
	}
	if _, err := s.Write([]byte("in")); err != nil {
		t.Fatal(err)
	}
	var out, stderr bytes.Buffer
	st, err := s.Copy(&out, &stderr)
	if err != nil || st.ExitCode != 3 || out.String() != "out" || stderr.String() != "err" {
		t.Errorf("%+v %v %q %q", st, err, out.String(), stderr.String())
	}
	if g := <-got; g != `{"Owner":"me"}in` {
		t.Errorf("sent %s", g)
	}
	if _, err := s.Copy(nil, nil); !errors.Is(err, ErrDetached) {
		t.Errorf("after the end: %v", err)
	}
	s.Close()
	if _, err := s.Write([]byte("x")); !IsAlreadyClosed(err) {
		t.Errorf("after close: %v", err)
	}
	if _, _, err := c.Run(t.Context(), "refused", ComputeSystem{}, CreateOptions{}, AttachOptions{}); !IsExists(err) {
		t.Errorf("refused: %v", err)
	}
}

func TestClientGivesUp(t *testing.T) {
	c := server(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Attach(ctx, "web", "init", AttachOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("attach: %v", err)
	}
	if _, err := c.Wait(ctx, "web"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait: %v", err)
	}
}

func TestClientStreams(t *testing.T) {
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"Revision":1,"Name":"SystemCreated"}`+"\n\n"+`{"Revision":2,"Name":"SystemExited"}`+"\n")
	})
	var names []string
	for e, err := range c.Events(t.Context(), EventOptions{Since: 0}) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, e.Name)
	}
	if len(names) != 2 || names[1] != EventSystemExited.String() {
		t.Errorf("%v", names)
	}
	n := 3
	o := LogOptions{Follow: true, Tail: &n, Since: time.Unix(5, 0).UTC(), Stderr: true}
	back, err := ParseLogOptions(o.Values())
	if err != nil || !back.Follow || *back.Tail != 3 || !back.Since.Equal(o.Since) || back.Stdout || !back.Stderr {
		t.Errorf("log options: %+v %v", back, err)
	}
	if _, err := ParseLogOptions(map[string][]string{"tail": {"x"}}); CodeOf(err) != CodeInvalidArg {
		t.Errorf("%v", err)
	}
}
