// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"fmt"
	"html"
	"strings"
	"unicode/utf8"

	"gatehouse.dev/gatehouse/hcn"
)

// drawText draws the host's networks with lines and words: uplinks on top, a
// switch for each network, its ports, and what is plugged into them.
func drawText(g hcn.Graph) string {
	var b strings.Builder
	var ups []string
	for _, u := range g.Uplinks {
		ups = append(ups, strings.TrimSpace(u.Name+" "+strings.Join(u.Addresses, " ")))
	}
	if len(ups) == 0 {
		ups = []string{"none: nothing leaves this host"}
	}
	fmt.Fprintf(&b, "uplinks   %s\n", strings.Join(ups, "\n          "))
	if len(g.Networks) == 0 {
		b.WriteString("\nno networks; make one with: gatehouse network create NAME\n")
	}
	for _, n := range g.Networks {
		b.WriteByte('\n')
		way := " ╎ "
		if n.Outbound || n.Uplink != "" {
			way = " │ "
		}
		fmt.Fprintf(&b, "%s %s\n", way, wayOut(n))
		title := fmt.Sprintf("%s  %s", orDash(n.Name), n.Type)
		lines := []string{title}
		for _, s := range n.Subnets {
			l := s.Prefix
			if s.Gateway != "" {
				l += "  gateway " + s.Gateway
			}
			if s.VSID != 0 {
				l += fmt.Sprintf("  VSID %d", s.VSID)
			}
			lines = append(lines, l+fmt.Sprintf("  %s used", plural(s.Used, "address", "addresses")))
		}
		width := 0
		for _, l := range lines {
			width = max(width, utf8.RuneCountInString(l))
		}
		fmt.Fprintf(&b, "┌┴%s┐\n", strings.Repeat("─", width+1))
		for _, l := range lines {
			fmt.Fprintf(&b, "│ %s%s │\n", l, strings.Repeat(" ", width-utf8.RuneCountInString(l)))
		}
		fmt.Fprintf(&b, "└┬%s┘\n", strings.Repeat("─", width+1))
		rows := graphRows(n)
		cols := make([]int, 3)
		for _, r := range rows {
			for i := range cols {
				cols[i] = max(cols[i], utf8.RuneCountInString(r[i]))
			}
		}
		for i, r := range rows {
			arm := " ├─"
			if i == len(rows)-1 {
				arm = " └─"
			}
			line := arm
			for j, c := range cols {
				line += " " + r[j] + strings.Repeat(" ", c-utf8.RuneCountInString(r[j]))
				if j == 0 {
					line += " ──"
				}
			}
			b.WriteString(strings.TrimRight(line+" "+r[3], " ─") + "\n")
		}
	}
	for i, l := range serviceLines(g) {
		if i == 0 {
			b.WriteString("\n")
		}
		b.WriteString(l + "\n")
	}
	return b.String()
}

// serviceLines are what spreads over endpoints, and the ports that are kept:
// "service web  10.96.0.9:80/tcp ═> one, two".
func serviceLines(g hcn.Graph) (out []string) {
	for _, s := range g.Services {
		what := strings.TrimSpace("service " + s.Name + " " + s.Type)
		if s.Kind == "loadbalancers" {
			what = "load balancer " + s.Name
			if s.Name == "" {
				what += short(s.ID)
			}
		}
		to := strings.Join(s.Backends, ", ")
		if to == "" {
			to = "nobody"
		}
		if s.External != "" {
			to = s.External
		}
		out = append(out, strings.Join(strings.Fields(what+" "+strings.Join(s.Frontends, " ")), " ")+" ═> "+to)
	}
	for _, r := range g.Reserved {
		proto := map[uint32]string{1: "tcp", 2: "udp", 3: "tcp and udp"}[r.Protocol]
		out = append(out, fmt.Sprintf("reserved %d-%d %s ═> %s", r.StartingPort, r.EndingPort, proto, orDash(strings.TrimSpace(r.Name+" "+r.Owner))))
	}
	return out
}

// wayOut says in words how a network's traffic leaves the host.
func wayOut(n hcn.GraphNetwork) string {
	switch {
	case n.VXLANPort != 0:
		return fmt.Sprintf("VXLAN on UDP port %d by %s", n.VXLANPort, n.Uplink)
	case n.Uplink != "":
		return "bound to " + n.Uplink
	case n.Outbound:
		return "source NAT"
	}
	return "no way out"
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// graphRows are the ports of a network: port and device, who, addresses, the rest.
func graphRows(n hcn.GraphNetwork) [][4]string {
	var rows [][4]string
	if n.HostNIC != "" {
		var gw []string
		for _, s := range n.Subnets {
			if s.Gateway != "" {
				gw = append(gw, s.Gateway)
			}
		}
		rows = append(rows, [4]string{portText(n.HostPort, n.HostNIC), "the host", strings.Join(gw, " "), ""})
	}
	for _, e := range n.Endpoints {
		who := e.Name
		if who == "" && len(e.Container) > 0 {
			who = e.Container[0]
		}
		if who == "" {
			who = "endpoint " + short(e.ID)
		}
		if e.Interface != "" {
			who += " " + e.Interface
		}
		port := portText(e.Port, e.Device)
		if e.Namespace == "" && len(e.Container) == 0 {
			port = "not attached"
		}
		var pub []string
		for _, p := range e.Published {
			pub = append(pub, publishedText(p))
		}
		rest := strings.TrimSpace(e.MAC)
		if len(pub) > 0 {
			rest = strings.TrimSpace(rest + "  published " + strings.Join(pub, ", "))
		}
		rows = append(rows, [4]string{port, who, strings.Join(bare(e.Addresses), " "), rest})
	}
	if len(rows) == 0 {
		rows = append(rows, [4]string{"no ports", "", "", ""})
	}
	return rows
}

func portText(id uint16, device string) string {
	return strings.TrimSpace(fmt.Sprintf("port %d %s", id, device))
}

// bare are addresses without their prefix lengths.
func bare(in []string) []string {
	out := make([]string, len(in))
	for i, a := range in {
		out[i], _, _ = strings.Cut(a, "/")
	}
	return out
}

// Measures of the SVG drawing in pixels; a character of the font is 7.2 wide.
const (
	svgChar   = 7.3
	svgRow    = 26
	svgMargin = 20
)

// drawSVG draws the same as drawText as a picture that stands alone.
func drawSVG(g hcn.Graph) string {
	var b strings.Builder
	y, width := float64(svgMargin), 400.0
	text := func(x, y float64, class, s string) {
		fmt.Fprintf(&b, `<text x="%.0f" y="%.0f" class="%s">%s</text>`+"\n", x, y, class, html.EscapeString(s))
		width = max(width, x+float64(utf8.RuneCountInString(s))*svgChar+svgMargin)
	}
	box := func(x, y, w, h float64, class string) {
		fmt.Fprintf(&b, `<rect x="%.0f" y="%.0f" width="%.0f" height="%.0f" rx="4" class="%s"/>`+"\n", x, y, w, h, class)
		width = max(width, x+w+svgMargin)
	}
	line := func(x1, y1, x2, y2 float64, class string) {
		fmt.Fprintf(&b, `<line x1="%.0f" y1="%.0f" x2="%.0f" y2="%.0f" class="%s"/>`+"\n", x1, y1, x2, y2, class)
	}
	up := "uplinks: none"
	if len(g.Uplinks) > 0 {
		var f []string
		for _, u := range g.Uplinks {
			f = append(f, strings.TrimSpace(u.Name+" "+strings.Join(u.Addresses, " ")))
		}
		up = "uplinks: " + strings.Join(f, ", ")
	}
	box(svgMargin, y, float64(utf8.RuneCountInString(up))*svgChar+24, svgRow, "uplink")
	text(svgMargin+12, y+17, "t", up)
	y += svgRow
	for _, n := range g.Networks {
		class := "wire"
		if !n.Outbound && n.Uplink == "" {
			class = "nowire"
		}
		line(svgMargin+30, y, svgMargin+30, y+svgRow, class)
		y += svgRow
		title := fmt.Sprintf("%s (%s)", orDash(n.Name), n.Type)
		for _, s := range n.Subnets {
			title += "  " + s.Prefix
		}
		box(svgMargin, y, float64(utf8.RuneCountInString(title))*svgChar+24, svgRow, "switch")
		text(svgMargin+12, y+17, "t b", title)
		y += svgRow
		top := y
		rows := graphRows(n)
		for _, r := range rows {
			y += 8
			line(svgMargin+30, y+svgRow/2, svgMargin+60, y+svgRow/2, "wire")
			x := float64(svgMargin + 60)
			w := float64(utf8.RuneCountInString(r[0]))*svgChar + 24
			box(x, y, w, svgRow, "port")
			text(x+12, y+17, "t", r[0])
			x += w
			if r[1] != "" {
				line(x, y+svgRow/2, x+30, y+svgRow/2, "wire")
				x += 30
				s := strings.TrimSpace(r[1] + "  " + r[2])
				w = float64(utf8.RuneCountInString(s))*svgChar + 24
				box(x, y, w, svgRow, "endpoint")
				text(x+12, y+17, "t", s)
				text(x+w+12, y+17, "t s", r[3])
			}
			y += svgRow
		}
		line(svgMargin+30, top, svgMargin+30, y-svgRow/2, "wire")
		y += svgRow
	}
	for _, l := range serviceLines(g) {
		box(svgMargin, y, float64(utf8.RuneCountInString(l))*svgChar+24, svgRow, "service")
		text(svgMargin+12, y+17, "t", l)
		y += svgRow + 8
	}
	y += svgMargin
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f">
<style>
.t { font: 12px ui-monospace, monospace; fill: #1c2733 }
.b { font-weight: bold }
.s { fill: #5b6b7a }
rect { stroke: #44566b }
.uplink { fill: #f3e9d2 } .switch { fill: #cfe3f5 } .port { fill: #e9eef3 } .endpoint { fill: #dcefdc } .service { fill: #efe3f5 }
.wire { stroke: #44566b; stroke-width: 1.5 } .nowire { stroke: #b9c3cd; stroke-dasharray: 3 3 }
</style>
<rect width="100%%" height="100%%" style="fill: #fff; stroke: none"/>
%s</svg>
`, width, y, width, y, b.String())
}
