// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sort"
	"time"
)

// lookup asks the system's resolver, or a server by address.
func lookup(args []string) error {
	fs := flags()
	overTCP := fs.Bool("tcp", false, "")
	timeout := fs.Float64("t", 5, "")
	rest, err := parse(fs, args, 1, 2)
	if err != nil {
		return err
	}
	r := &net.Resolver{PreferGo: true}
	if len(rest) == 2 || *overTCP {
		r.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if len(rest) == 2 {
				address = rest[1]
				if _, _, err := net.SplitHostPort(address); err != nil {
					address = net.JoinHostPort(address, "53")
				}
			}
			if *overTCP {
				network = "tcp"
			}
			var d net.Dialer
			return d.DialContext(ctx, network, address)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(*timeout*float64(time.Second)))
	defer cancel()
	var out []string
	if _, perr := netip.ParseAddr(rest[0]); perr == nil {
		out, err = r.LookupAddr(ctx, rest[0])
	} else {
		out, err = r.LookupHost(ctx, rest[0])
	}
	if err != nil {
		return err
	}
	sort.Strings(out)
	for _, l := range out {
		fmt.Println(l)
	}
	return nil
}

func addr(args []string) error {
	if _, err := parse(flags(), args, 0, 0); err != nil {
		return err
	}
	ifs, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range ifs {
		fmt.Printf("%d %s mtu %d %s %s\n", i.Index, i.Name, i.MTU, i.HardwareAddr, i.Flags)
		as, err := i.Addrs()
		if err != nil {
			return err
		}
		for _, a := range as {
			fmt.Printf("  %s\n", a)
		}
	}
	return nil
}
