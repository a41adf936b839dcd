// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// As much of HTTP/1.1 (RFC 9112) as two honest peers need: a start line, headers,
// and a body by Content-Length, in chunks, or to the end of the connection.

const (
	maxLine    = 16 << 10
	maxHeaders = 128
)

var errMessage = errors.New("not an HTTP/1.1 message")

type message struct {
	start   string
	headers [][2]string
}

func (m message) get(name string) string {
	for _, h := range m.headers {
		if strings.EqualFold(h[0], name) {
			return h[1]
		}
	}
	return ""
}

func readLine(r *bufio.Reader) (string, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return "", fmt.Errorf("line over %d bytes: %w", maxLine, errMessage)
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		if err != nil {
			if len(line) > 0 && err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return "", err
		}
		return strings.TrimRight(string(line), "\r\n"), nil
	}
}

// readMessage reads up to and including the empty line. io.EOF before the first
// byte means that the peer has nothing more to say.
func readMessage(r *bufio.Reader, response bool) (message, error) {
	var m message
	var err error
	if m.start, err = readLine(r); err != nil {
		return m, err
	}
	if response && !strings.HasPrefix(m.start, "HTTP/1.") {
		return m, errMessage
	}
	for {
		line, err := readLine(r)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil || line == "" {
			return m, err
		}
		k, v, ok := strings.Cut(line, ":")
		if !ok || k == "" || strings.ContainsAny(k, " \t") || len(m.headers) >= maxHeaders {
			return m, fmt.Errorf("header %q: %w", k, errMessage)
		}
		m.headers = append(m.headers, [2]string{k, strings.TrimSpace(v)})
	}
}

// body answers a reader of the message's body.
func (m message) body(r *bufio.Reader, response bool) (io.Reader, error) {
	if strings.EqualFold(m.get("Transfer-Encoding"), "chunked") {
		return &chunks{r: r}, nil
	}
	if cl := m.get("Content-Length"); cl != "" {
		n, err := strconv.ParseInt(cl, 10, 64)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("Content-Length %q: %w", cl, errMessage)
		}
		return &exactly{r, n}, nil
	}
	if response {
		return r, nil
	}
	return strings.NewReader(""), nil
}

// exactly n bytes; fewer are an error.
type exactly struct {
	r io.Reader
	n int64
}

func (e *exactly) Read(p []byte) (int, error) {
	if e.n == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > e.n {
		p = p[:e.n]
	}
	n, err := e.r.Read(p)
	e.n -= int64(n)
	if err == io.EOF && e.n > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err == io.EOF {
		err = nil
	}
	return n, err
}

type chunks struct {
	r    *bufio.Reader
	left int64
	done bool
}

func (c *chunks) Read(p []byte) (int, error) {
	for c.left == 0 {
		if c.done {
			return 0, io.EOF
		}
		line, err := readLine(c.r)
		if err != nil {
			return 0, err
		}
		size, _, _ := strings.Cut(line, ";")
		n, err := strconv.ParseInt(strings.TrimSpace(size), 16, 64)
		if err != nil || n < 0 {
			return 0, fmt.Errorf("chunk of size %q: %w", size, errMessage)
		}
		if c.left = n; n > 0 {
			break
		}
		c.done = true
		for { // trailers
			line, err := readLine(c.r)
			if err != nil {
				return 0, err
			}
			if line == "" {
				break
			}
		}
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.r.Read(p)
	c.left -= int64(n)
	if c.left == 0 && err == nil {
		_, err = readLine(c.r) // the line end behind the data
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
