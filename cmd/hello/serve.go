// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/signal"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// serve runs until SIGTERM or SIGINT. "-" instead of an address leaves one out.
func serve(args []string) error {
	fs := flags()
	httpAddr := fs.String("http", ":80", "")
	echoAddr := fs.String("echo", ":7", "")
	if _, err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	failed := make(chan error, 3)
	if *httpAddr != "-" {
		l, err := net.Listen("tcp", *httpAddr)
		if err != nil {
			return err
		}
		fmt.Printf("http on %s\n", l.Addr())
		go func() { failed <- accept(l, serveHTTP) }()
	}
	if *echoAddr != "-" {
		l, err := net.Listen("tcp", *echoAddr)
		if err != nil {
			return err
		}
		// The number that TCP got, should the port have been 0.
		p, err := net.ListenPacket("udp", l.Addr().String())
		if err != nil {
			return err
		}
		fmt.Printf("echo on %s, tcp and udp\n", l.Addr())
		go func() { failed <- accept(l, func(c net.Conn) { _, _ = io.Copy(c, c) }) }()
		go func() { failed <- echoPackets(p) }()
	}
	select {
	case <-stop:
		return nil
	case err := <-failed:
		return err
	}
}

func accept(l net.Listener, handle func(net.Conn)) error {
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED) {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			return err
		}
		go func() {
			defer c.Close()
			handle(c)
		}()
	}
}

func echoPackets(p net.PacketConn) error {
	buf := make([]byte, 65535)
	for {
		n, from, err := p.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			continue // an ICMP error about an earlier answer
		}
		_, _ = p.WriteTo(buf[:n], from)
	}
}

// idleTimeout of a connection that is kept.
const idleTimeout = 60 * time.Second

// maxBody of a request: what /echo holds in memory.
const maxBody = 64 << 20

func serveHTTP(c net.Conn) {
	in, out := bufio.NewReader(c), bufio.NewWriterSize(c, 64<<10)
	for {
		if err := c.SetDeadline(time.Now().Add(idleTimeout)); err != nil {
			return
		}
		m, err := readMessage(in, false)
		if err != nil {
			return
		}
		method, rest, _ := strings.Cut(m.start, " ")
		target, proto, ok := strings.Cut(rest, " ")
		keep := proto == "HTTP/1.1" && !strings.EqualFold(m.get("Connection"), "close") ||
			strings.EqualFold(m.get("Connection"), "keep-alive")
		if !ok {
			writeResponse(out, 400, "text/plain", false, strings.NewReader("bad request\n"), 12)
			_ = out.Flush()
			return
		}
		if strings.EqualFold(m.get("Expect"), "100-continue") {
			fmt.Fprint(out, "HTTP/1.1 100 Continue\r\n\r\n")
			if out.Flush() != nil {
				return
			}
		}
		body, err := m.body(in, false)
		if err != nil {
			writeResponse(out, 400, "text/plain", false, strings.NewReader("bad body\n"), 9)
			_ = out.Flush()
			return
		}
		b, err := io.ReadAll(io.LimitReader(body, maxBody))
		if err != nil {
			return
		}
		respond(out, c, method, target, m, string(b), keep)
		if out.Flush() != nil || !keep {
			return
		}
	}
}

func respond(out *bufio.Writer, c net.Conn, method, target string, m message, body string, keep bool) {
	u, err := url.ParseRequestURI(target)
	if err != nil {
		writeResponse(out, 400, "text/plain", keep, strings.NewReader("bad target\n"), 11)
		return
	}
	status, kind, text := 200, "text/plain; charset=utf-8", ""
	switch u.Path {
	case "/echo":
		kind, text = m.get("Content-Type"), body
		if kind == "" {
			kind = "application/octet-stream"
		}
	case "/bytes":
		n, err := strconv.ParseInt(u.Query().Get("n"), 10, 64)
		if err != nil || n < 0 {
			status, text = 400, "n must be a number of bytes\n"
			break
		}
		if method == "HEAD" {
			n = 0
		}
		writeResponse(out, 200, "application/octet-stream", keep, zeros{}, n)
		return
	case "/status":
		if n, err := strconv.Atoi(u.Query().Get("n")); err == nil && n >= 200 && n < 600 {
			status = n
		}
	default:
		i := about(c, method, target, m)
		if strings.Contains(m.get("Accept"), "json") || u.Query().Has("json") {
			b, _ := json.MarshalIndent(i, "", "  ")
			kind, text = "application/json", string(b)+"\n"
		} else {
			text = i.text()
		}
	}
	n := int64(len(text))
	if method == "HEAD" {
		text, n = "", 0
	}
	writeResponse(out, status, kind, keep, strings.NewReader(text), n)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// info is the answer to any path that has no meaning of its own.
type info struct {
	Host      string
	Addresses []string
	Local     string // address and port the client asked
	Client    string // address and port it asked from
	Method    string
	Path      string
	Headers   map[string][]string
}

func about(c net.Conn, method, target string, m message) info {
	i := info{Local: c.LocalAddr().String(), Client: c.RemoteAddr().String(), Method: method, Path: target,
		Headers: map[string][]string{}, Addresses: addresses()}
	i.Host, _ = os.Hostname()
	for _, h := range m.headers {
		i.Headers[h[0]] = append(i.Headers[h[0]], h[1])
	}
	return i
}

func addresses() (out []string) {
	all, _ := net.InterfaceAddrs()
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			out = append(out, n.String())
		}
	}
	return out
}

func (i info) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "hello from %s\n", i.Host)
	for _, a := range i.Addresses {
		fmt.Fprintf(&b, "address %s\n", a)
	}
	fmt.Fprintf(&b, "asked   %s\nclient  %s\n%s %s\n", i.Local, i.Client, i.Method, i.Path)
	var keys []string
	for k := range i.Headers {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		fmt.Fprintf(&b, "%s: %s\n", k, strings.Join(i.Headers[k], ", "))
	}
	return b.String()
}

func writeResponse(w *bufio.Writer, status int, kind string, keep bool, body io.Reader, n int64) {
	conn := "close"
	if keep {
		conn = "keep-alive"
	}
	fmt.Fprintf(w, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: %s\r\nServer: gatehouse-hello\r\n\r\n",
		status, reason(status), strings.NewReplacer("\r", "", "\n", "").Replace(kind), n, conn)
	_, _ = io.CopyN(w, body, n)
}

func reason(status int) string {
	switch status {
	case 200:
		return "OK"
	case 400:
		return "Bad Request"
	case 404:
		return "Not Found"
	}
	return "Status"
}
