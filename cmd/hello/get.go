// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// get asks once and prints the answer, or asks -n times and prints figures.
func get(args []string) error {
	fs := flags()
	n := fs.Int("n", 0, "")
	conc := fs.Int("c", 1, "")
	timeout := fs.Float64("t", 10, "")
	header := fs.String("H", "", "")
	data := fs.String("d", "", "")
	fresh := fs.Bool("new", false, "")
	rate := fs.Float64("r", 0, "")
	rest, err := parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	if !strings.Contains(rest[0], "://") {
		rest[0] = "http://" + rest[0]
	}
	u, err := url.Parse(rest[0])
	if err != nil || u.Scheme != "http" || u.Host == "" {
		return fmt.Errorf("%q: must be http://host[:port]/path", rest[0])
	}
	req := request{u: u, timeout: time.Duration(*timeout * float64(time.Second)), header: *header, body: *data, fresh: *fresh, rate: *rate}
	if *n <= 0 {
		return req.show()
	}
	return req.load(*n, max(*conc, 1))
}

type request struct {
	u       *url.URL
	timeout time.Duration
	header  string
	body    string
	fresh   bool    // a new connection for each request
	rate    float64 // requests a second over all workers; 0 = as fast as can be
}

// client is one connection that is kept from request to request.
type client struct {
	req request
	c   net.Conn
	r   *bufio.Reader
}

func (c *client) close() {
	if c.c != nil {
		c.c.Close()
		c.c = nil
	}
}

// do sends the request and copies the body of the answer.
func (c *client) do(out io.Writer) (m message, err error) {
	deadline := time.Now().Add(c.req.timeout)
	if c.c == nil {
		host := c.req.u.Host
		if c.req.u.Port() == "" {
			host = net.JoinHostPort(c.req.u.Hostname(), "80")
		}
		if c.c, err = net.DialTimeout("tcp", host, c.req.timeout); err != nil {
			c.c = nil
			return m, err
		}
		c.r = bufio.NewReader(c.c)
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if err := c.c.SetDeadline(deadline); err != nil {
		return m, err
	}
	method := "GET"
	var b strings.Builder
	if c.req.body != "" {
		method = "POST"
	}
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: gatehouse-hello\r\n", method, c.req.u.RequestURI(), c.req.u.Host)
	if c.req.header != "" {
		fmt.Fprintf(&b, "%s\r\n", c.req.header)
	}
	if c.req.body != "" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(c.req.body))
	}
	fmt.Fprintf(&b, "\r\n%s", c.req.body)
	if _, err := io.WriteString(c.c, b.String()); err != nil {
		return m, err
	}
	if m, err = readMessage(c.r, true); err != nil {
		return m, err
	}
	body, err := m.body(c.r, true)
	if err != nil {
		return m, err
	}
	_, err = io.Copy(out, body)
	if strings.EqualFold(m.get("Connection"), "close") || m.get("Content-Length") == "" && m.get("Transfer-Encoding") == "" {
		c.close()
	}
	return m, err
}

func (m message) status() int {
	f := strings.Fields(m.start)
	if len(f) < 2 {
		return 0
	}
	n, _ := strconv.Atoi(f[1])
	return n
}

func (q request) show() error {
	c := &client{req: q}
	defer c.close()
	m, err := c.do(os.Stdout)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, m.start)
	if m.status() >= 400 {
		return exitError(1)
	}
	return nil
}

func (q request) load(n, conc int) error {
	var (
		mu       sync.Mutex // guards the results
		took     []time.Duration
		failed   int
		firstErr error
		wg       sync.WaitGroup
	)
	start := time.Now()
	for w := range conc {
		wg.Go(func() {
			c := &client{req: q}
			defer c.close()
			for i := range share(n, conc, w) {
				if q.rate > 0 {
					time.Sleep(time.Until(start.Add(time.Duration(float64(i*conc+w) / q.rate * float64(time.Second)))))
				}
				t := time.Now()
				m, err := c.do(io.Discard)
				if q.fresh {
					c.close()
				}
				d := time.Since(t)
				if err == nil && m.status() != 200 {
					err = fmt.Errorf("status %d", m.status())
				}
				mu.Lock()
				if err != nil {
					failed++
					if firstErr == nil {
						firstErr = err
					}
				} else {
					took = append(took, d)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	fmt.Printf("ok %d failed %d in %.3f s, %.0f/s\n", len(took), failed, time.Since(start).Seconds(),
		float64(len(took))/time.Since(start).Seconds())
	fmt.Println(quantiles(took))
	if failed > 0 {
		return fmt.Errorf("%d of %d failed, first: %w", failed, n, firstErr)
	}
	return nil
}

// share is how many of n fall to worker w of conc.
func share(n, conc, w int) int {
	s := n / conc
	if w < n%conc {
		s++
	}
	return s
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

func quantiles(d []time.Duration) string {
	sort.Slice(d, func(i, j int) bool { return d[i] < d[j] })
	return fmt.Sprintf("min %v p50 %v p90 %v p99 %v max %v", quantile(d, 0), quantile(d, .5), quantile(d, .9), quantile(d, .99), quantile(d, 1))
}

func tcp(args []string) error { return exchange("tcp", args) }
func udp(args []string) error { return exchange("udp", args) }

// exchange sends a text and prints as many bytes as come back.
func exchange(network string, args []string) error {
	fs := flags()
	timeout := fs.Float64("t", 5, "")
	rest, err := parse(fs, args, 2, 2)
	if err != nil {
		return err
	}
	d := time.Duration(*timeout * float64(time.Second))
	c, err := net.DialTimeout(network, rest[0], d)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, rest[1]); err != nil {
		return err
	}
	buf := make([]byte, 65535)
	got := 0
	for got < max(len(rest[1]), 1) {
		n, err := c.Read(buf[got:])
		got += n
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", got, err)
		}
		if network == "udp" {
			break
		}
	}
	fmt.Printf("%s\n", buf[:got])
	return nil
}
