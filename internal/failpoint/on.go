// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

//go:build failpoint

package failpoint

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Enabled says whether the package was built to do anything.
const Enabled = true

// How often each point did something, and what decides by chance. Package state, in
// test builds only.
var (
	mu     sync.Mutex
	count  = map[string]int{}
	chance *rand.Rand
)

// happens says whether what happens percent times in a hundred does now.
func happens(percent int) bool {
	mu.Lock()
	defer mu.Unlock()
	if chance == nil {
		seed, _ := strconv.ParseUint(os.Getenv("GATEHOUSE_FAILPOINT_SEED"), 10, 64)
		chance = rand.New(rand.NewPCG(seed, 1))
	}
	return chance.IntN(100) < percent
}

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
		if percent, rest, ok := strings.Cut(action, "%"); ok {
			n, err := strconv.Atoi(percent)
			if err != nil {
				return fmt.Errorf("%w: %s: %q is not a percentage", Err, name, percent)
			}
			if !happens(n) {
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
		time.Sleep(time.Minute) // the signal is on its way; select {} may count as a deadlock
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
