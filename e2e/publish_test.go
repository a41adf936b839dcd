// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPublishPolicy: what the administrator says about clients outside holds for
// published ports, and for nothing else.
//
//covers:endpoint PortMapping
func TestPublishPolicy(t *testing.T) {
	h := newHost(t)
	other4, other6 := "198.51.100.3", "2001:db8:100::3"
	h.must("ip", "-n", h.out, "addr", "add", other4+"/24", "dev", "wire")
	h.must("ip", "-n", h.out, "addr", "add", other6+"/64", "dev", "wire", "nodad")
	configure := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(h.root, "config.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if h.daemon != nil {
			h.stop()
		}
		h.start()
	}
	configure("")
	h.background(h.out, h.hello, "serve")
	h.background(h.ns, h.hello, "serve", "-http", ":8081", "-echo", ":8007")
	h.gh("run", "-d", "--name", "web", "-p", "8080:80", "-p", "7007:7/udp", image)
	h.gh("run", "-d", "--name", "other", image)
	ask := func(from string, words ...string) string {
		family, to := "-4", hostV4+"/32"
		if strings.Contains(from, ":") {
			family, to = "-6", hostV6+"/128"
		}
		h.must("ip", "-n", h.out, family, "route", "replace", to, "dev", "wire", "src", from)
		_, err := h.at(h.out, append([]string{h.hello}, words...)...)
		switch {
		case err == nil:
			return "open"
		case strings.Contains(err.Error(), "refused"):
			return "refused"
		}
		return "silent"
	}
	web4, web6 := []string{"get", "-t", "1", "http://" + hostV4 + ":8080/"}, []string{"get", "-t", "1", "http://[" + hostV6 + "]:8080/"}
	echo := []string{"udp", hostV4 + ":7007", "x"}
	always := func(t *testing.T) {
		t.Helper()
		if got := ask(outV4, "get", "-t", "1", "http://"+hostV4+":8081/"); got != "open" {
			t.Errorf("the host's own server is %s", got)
		}
		for what, words := range map[string][]string{"outside by NAT": {"tcp", outV4 + ":7", "x"}, "published, by a container": {"get", "-t", "1", "http://" + hostV4 + ":8080/"}} {
			if _, errs, code := h.try(append([]string{"exec", "other", "/hello"}, words...)...); code != 0 {
				t.Errorf("%s: %s", what, errs)
			}
		}
		if _, err := h.at(h.ns, append([]string{h.hello}, web4...)...); err != nil {
			t.Errorf("by the host: %v", err)
		}
	}
	for _, c := range []struct {
		name, config                 string
		out4, out6, oth4, oth6, echo string
	}{
		{"open", "", "open", "open", "open", "open", "open"},
		{"closed", "[publish]\ndefault='closed'\n", "silent", "silent", "silent", "silent", "silent"},
		{"closed but for", "[publish]\ndefault='closed'\nrules=['allow " + other4 + "','allow 2001:db8:100::3/128 tcp/8000-8099']\n", "silent", "silent", "open", "open", "silent"},
		{"open but for", "[publish]\nrules=['reject " + outV4 + " tcp','deny " + outV6 + "']\n", "refused", "silent", "open", "open", "open"},
		{"first decides", "[publish]\nrules=['allow " + outV4 + "/32','deny 198.51.100.0/24','deny any udp']\n", "open", "open", "silent", "open", "open"},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer h.in(t)()
			configure(c.config)
			for _, q := range []struct {
				from  string
				words []string
				want  string
			}{{outV4, web4, c.out4}, {outV6, web6, c.out6}, {other4, web4, c.oth4}, {other6, web6, c.oth6}, {outV4, echo, c.echo}} {
				if got := ask(q.from, q.words...); got != q.want {
					t.Errorf("%s %v: %s, want %s", q.from, q.words, got, q.want)
				}
			}
			always(t)
			x := h.explain("outside", "host:8080", "--source", outV4)
			if forward := x.Verdict == "forward"; forward != (c.out4 == "open") {
				t.Errorf("explain: %s %s", x.Verdict, x.Reason)
			}
		})
	}
}
