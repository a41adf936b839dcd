// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Enabled says whether the package was built to do anything.
const Enabled = true

// counters of how often each point did something. Package state, in test builds only.
var (
	mu    sync.Mutex
	count = map[string]int{}
)

// Hit does what the environment says for name.
func Hit(name string) error {
	text := os.Getenv("GATEHOUSE_FAILPOINTS")
	if path := os.Getenv("GATEHOUSE_FAILPOINT_FILE"); path != "" {
		raw, err := os.ReadFile(path)
		if err == nil {
			text = string(raw)
		}
	}
	for part := range strings.SplitSeq(text, ";") {
		point, action, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || point != name {
			continue
		}
		if times, rest, ok := strings.Cut(action, "*"); ok {
			n, err := strconv.Atoi(times)
			if err != nil {
				return fmt.Errorf("%w: %s: %q is not a count", Err, name, times)
			}
			mu.Lock()
			done := count[name]
			count[name]++
			mu.Unlock()
			if done >= n {
				continue
			}
			action = rest
		}
		return do(name, action)
	}
	return nil
}

func do(name, action string) error {
	switch {
	case action == "crash":
		p, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = p.Kill()
		}
		if err != nil {
			return fmt.Errorf("%w: %s: crash: %w", Err, name, err)
		}
		select {} // the signal is on its way
	case action == "error":
		return fmt.Errorf("%w: %s", Err, name)
	case strings.HasPrefix(action, "sleep(") && strings.HasSuffix(action, ")"):
		d, err := time.ParseDuration(action[len("sleep(") : len(action)-1])
		if err != nil {
			return fmt.Errorf("%w: %s: %w", Err, name, err)
		}
		time.Sleep(d)
		return nil
	}
	return fmt.Errorf("%w: %s: unknown action %q", Err, name, action)
}
