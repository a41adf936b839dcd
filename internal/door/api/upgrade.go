// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package api

import (
	"fmt"
	"net"
	"net/http"
	"strings"

	"gatehouse.dev/gatehouse/hcs"
)

// upgrade takes the connection of one request out of HTTP.
type upgrade struct {
	w    http.ResponseWriter
	r    *http.Request
	conn *net.UnixConn // set once 101 was answered
}

// to answers 101 and returns the bare connection with what was already read from
// it. header is names and values in turn. The caller closes the connection.
func (u *upgrade) to(token string, header ...string) (*net.UnixConn, []byte, error) {
	c, rw, err := http.NewResponseController(u.w).Hijack()
	if err != nil {
		return nil, nil, problem(http.StatusNotImplemented, codeNotImpl, "this connection cannot become %s: %v", token, err)
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, nil, fmt.Errorf("upgrade to %s: not a unix socket", token)
	}
	u.conn = uc
	var early []byte
	if n := rw.Reader.Buffered(); n > 0 {
		b, _ := rw.Reader.Peek(n)
		early = append(early, b...)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n", token)
	for i := 0; i+1 < len(header); i += 2 {
		fmt.Fprintf(&b, "%s: %s\r\n", header[i], header[i+1])
	}
	b.WriteString("\r\n")
	if _, err := uc.Write([]byte(b.String())); err != nil {
		return nil, nil, fmt.Errorf("upgrade to %s: %w", token, err)
	}
	return uc, early, nil
}

// fail tells err as the last frame of an upgraded connection.
func (u *upgrade) fail(err error) {
	_ = hcs.NewFrameWriter(u.conn).WriteJSON(hcs.FrameError, hcs.ResultOf(err))
}

func needsUpgrade(token string) error {
	return problem(http.StatusUpgradeRequired, codeInvalidArg, "this path speaks %s; send Connection: Upgrade and Upgrade: %s", token, token)
}
