// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// iperf's protocol: the client says up or down and for how long; whoever sends
// sends until then, then closes its side; of up the server answers the count.

func iperf(args []string) error {
	fs := flags()
	server := fs.Bool("s", false, "")
	to := fs.String("c", "", "")
	secs := fs.Float64("t", 3, "")
	streams := fs.Int("P", 1, "")
	down := fs.Bool("R", false, "")
	asJSON := fs.Bool("j", false, "")
	listen := fs.String("l", ":5201", "")
	if _, err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	switch {
	case *server && *to == "":
		l, err := net.Listen("tcp", *listen)
		if err != nil {
			return err
		}
		return accept(l, iperfServe)
	case *to == "" || *server || *streams < 1:
		return flag.ErrHelp
	}
	var total atomic.Int64
	var mu sync.Mutex // guards errs
	var errs []error
	var wg sync.WaitGroup
	start := time.Now()
	for range *streams {
		wg.Go(func() {
			n, err := iperfStream(withPort(*to, "5201"), *secs, *down)
			total.Add(n)
			if err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	took := time.Since(start).Seconds()
	bits := float64(total.Load()) * 8 / took
	if *asJSON {
		return json.NewEncoder(os.Stdout).Encode(map[string]float64{"Bytes": float64(total.Load()), "Seconds": took, "BitsPerSecond": bits})
	}
	fmt.Printf("%d bytes in %.2f s: %.3f Gbit/s\n", total.Load(), took, bits/1e9)
	return nil
}

func withPort(a, port string) string {
	if _, _, err := net.SplitHostPort(a); err != nil {
		return net.JoinHostPort(a, port)
	}
	return a
}

const block = 128 << 10

func iperfServe(c net.Conn) {
	var h [9]byte
	if _, err := io.ReadFull(c, h[:]); err != nil {
		return
	}
	if h[0] == 'd' {
		_, _ = blast(c, time.Duration(binary.BigEndian.Uint64(h[1:])))
		return
	}
	n := drain(c)
	_ = binary.Write(c, binary.BigEndian, n)
}

func iperfStream(to string, secs float64, down bool) (int64, error) {
	c, err := net.DialTimeout("tcp", to, 10*time.Second)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	d := time.Duration(secs * float64(time.Second))
	var h [9]byte
	h[0] = 'u'
	if down {
		h[0] = 'd'
	}
	binary.BigEndian.PutUint64(h[1:], uint64(d))
	if _, err := c.Write(h[:]); err != nil {
		return 0, err
	}
	if down {
		return drain(c), nil
	}
	if _, err := blast(c, d); err != nil {
		return 0, err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, err
	}
	var n int64
	err = binary.Read(c, binary.BigEndian, &n)
	return n, err
}

func blast(c net.Conn, d time.Duration) (n int64, err error) {
	buf := make([]byte, block)
	for end := time.Now().Add(d); time.Now().Before(end); {
		m, err := c.Write(buf)
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// drain reads without the copy to nowhere of io.Copy, whose buffer is smaller.
func drain(c net.Conn) (n int64) {
	buf := make([]byte, block)
	for {
		m, err := c.Read(buf)
		n += int64(m)
		if err != nil {
			return n
		}
	}
}

// rr sends a message and waits for its echo, again and again.
func rr(args []string) error {
	fs := flags()
	server := fs.Bool("s", false, "")
	to := fs.String("c", "", "")
	secs := fs.Float64("t", 3, "")
	size := fs.Int("b", 1, "")
	overUDP := fs.Bool("u", false, "")
	asJSON := fs.Bool("j", false, "")
	listen := fs.String("l", ":5202", "")
	if _, err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	switch {
	case *server && *to == "":
		p, err := net.ListenPacket("udp", *listen)
		if err != nil {
			return err
		}
		l, err := net.Listen("tcp", *listen)
		if err != nil {
			return err
		}
		go func() { _ = echoPackets(p) }()
		return accept(l, func(c net.Conn) { _, _ = io.Copy(c, c) })
	case *to == "" || *server || *size < 1 || *size > 65000:
		return flag.ErrHelp
	}
	network := "tcp"
	if *overUDP {
		network = "udp"
	}
	c, err := net.DialTimeout(network, withPort(*to, "5202"), 10*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, *size)
	var took []time.Duration
	start := time.Now()
	end := start.Add(time.Duration(*secs * float64(time.Second)))
	if err := c.SetDeadline(end.Add(5 * time.Second)); err != nil {
		return err
	}
	for now := start; now.Before(end); {
		if _, err := c.Write(buf); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return err
		}
		t := time.Now()
		took = append(took, t.Sub(now))
		now = t
	}
	rate := float64(len(took)) / time.Since(start).Seconds()
	if *asJSON {
		sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
		us := func(q float64) float64 { return float64(quantile(took, q).Nanoseconds()) / 1e3 }
		return json.NewEncoder(os.Stdout).Encode(map[string]float64{"PerSecond": rate,
			"P50Micros": us(.5), "P90Micros": us(.9), "P99Micros": us(.99), "MaxMicros": us(1)})
	}
	fmt.Printf("%d in %.2f s: %.0f/s\n%s\n", len(took), time.Since(start).Seconds(), rate, quantiles(took))
	return nil
}
