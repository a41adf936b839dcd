// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcs

import (
	"encoding/json"
	"fmt"
	"strings"
)

// SignalProcessOptions carries a signal: a number, or the name of a Windows
// console event or of a Linux signal ("TERM", "SIGTERM").
type SignalProcessOptions struct{ Signal Signal }

// Signal is a Linux signal number.
type Signal int

// The signals that verbs send by themselves; numbers as on every Linux we run on.
const (
	SIGHUP  Signal = 1
	SIGINT  Signal = 2
	SIGQUIT Signal = 3
	SIGABRT Signal = 6
	SIGKILL Signal = 9
	SIGTERM Signal = 15
)

// MaxSignal is SIGRTMAX.
const MaxSignal = 64

// UnmarshalJSON accepts a number or a name.
func (s *Signal) UnmarshalJSON(b []byte) error {
	var n int
	if err := json.Unmarshal(b, &n); err == nil {
		if n < 0 || n > MaxSignal {
			return fmt.Errorf("signal %d: not within 0 and %d", n, MaxSignal)
		}
		*s = Signal(n)
		return nil
	}
	var name string
	if err := json.Unmarshal(b, &name); err != nil {
		return fmt.Errorf("signal %s: neither a number nor a name", b)
	}
	v, err := ParseSignal(name)
	if err != nil {
		return err
	}
	*s = v
	return nil
}

// ParseSignal reads "15", "TERM", "SIGTERM", "RTMIN+3" or a Windows console event.
func ParseSignal(name string) (Signal, error) {
	var n int
	if _, err := fmt.Sscanf(name, "%d", &n); err == nil && fmt.Sprint(n) == name {
		if n < 0 || n > MaxSignal {
			return 0, fmt.Errorf("signal %q: not within 0 and %d", name, MaxSignal)
		}
		return Signal(n), nil
	}
	switch name {
	case "CtrlC":
		return SIGINT, nil
	case "CtrlBreak":
		return SIGQUIT, nil
	case "CtrlClose":
		return SIGHUP, nil
	case "CtrlLogOff", "CtrlShutdown":
		return SIGTERM, nil
	}
	up := strings.TrimPrefix(strings.ToUpper(name), "SIG")
	for i, s := range signalNames() {
		if s != "" && s == up {
			return Signal(i), nil
		}
	}
	switch up {
	case "IOT":
		return SIGABRT, nil
	case "CLD":
		return 17, nil
	case "POLL":
		return 29, nil
	}
	// glibc's SIGRTMIN and SIGRTMAX, which is what people mean.
	if up == "RTMIN" {
		return 34, nil
	}
	if up == "RTMAX" {
		return 64, nil
	}
	if _, err := fmt.Sscanf(up, "RTMIN+%d", &n); err == nil && n >= 0 && n <= 30 {
		return Signal(34 + n), nil
	}
	if _, err := fmt.Sscanf(up, "RTMAX-%d", &n); err == nil && n >= 0 && n <= 30 {
		return Signal(64 - n), nil
	}
	return 0, fmt.Errorf("signal %q: unknown; use a number or a name such as TERM", name)
}

// String is the name as people write it, "SIGTERM".
func (s Signal) String() string {
	names := signalNames()
	if s > 0 && int(s) < len(names) {
		return "SIG" + names[s]
	}
	return fmt.Sprintf("signal %d", int(s))
}

// signalNames in the order of uapi/asm-generic/signal.h; the same on amd64 and arm64.
func signalNames() []string {
	return []string{"", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
		"PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
		"VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS"}
}
