// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

//go:build failpoint

package network

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestCrash kills a child process in the middle of a verb, at each failpoint, and
// demands that the next start finds store and kernel in agreement, and either all
// of the verb or nothing.
func TestCrash(t *testing.T) {
	if dir := os.Getenv("GATEHOUSE_CRASH_DIR"); dir != "" {
		crashing(t, dir, os.Getenv("GATEHOUSE_CRASH_VERB"))
		return
	}
	for _, point := range []string{"network.committed", "network.attach", "network.ensured", "network.applied"} {
		for verb, want := range map[string]struct{ networks, endpoints, namespaces, loadBalancers int }{
			"plug":                 {1, 2, 2, 1},
			"unplug":               {1, 0, 0, 1},
			"create-network":       {2, 1, 1, 1},
			"delete-network":       {0, 0, 1, 0},
			"create-load-balancer": {1, 1, 1, 2},
			"modify-load-balancer": {1, 1, 1, 1},
		} {
			t.Run(point+" "+verb, func(t *testing.T) {
				dir := t.TempDir()
				cmd := exec.Command(os.Args[0], "-test.run=^TestCrash$")
				cmd.Env = append(os.Environ(), "GATEHOUSE_CRASH_DIR="+dir, "GATEHOUSE_CRASH_VERB="+verb,
					"GATEHOUSE_CRASH_POINT="+point, "GATEHOUSE_FAILPOINT_FILE="+filepath.Join(dir, "points"))
				out, err := cmd.CombinedOutput()
				if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
					t.Fatalf("the child was not killed: %v\n%s", err, out)
				}
				k := newFake(filepath.Join(dir, "kernel"))
				h, db, err := open(dir, k)
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				if err := consistent(h, k); err != nil {
					t.Error(err)
				}
				w := h.World()
				if n, e, s := len(w.AllNetworks()), len(w.AllEndpoints()), len(w.AllNamespaces()); n != want.networks || e != want.endpoints || s != want.namespaces ||
					len(w.AllLoadBalancers()) != want.loadBalancers {
					t.Errorf("%d networks, %d endpoints, %d namespaces; want %+v", n, e, s, want)
				}
				// And it goes on.
				if _, _, err := h.CreateNetwork(context.Background(), []byte(`{"Name":"after"}`)); err != nil {
					t.Error(err)
				}
				if err := consistent(h, k); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// crashing is the child: it sets up, then does one verb that does not end.
func crashing(t *testing.T, dir, verb string) {
	h, _, err := open(dir, newFake(filepath.Join(dir, "kernel")))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := h.Plug(ctx, "rt-1", id(1), plugDocs(1)); err != nil {
		t.Fatal(err)
	}
	balancer := func(lb, port int) []byte {
		return fmt.Appendf(nil, `{"ID":%q,"HostComputeEndpoints":[%q],"PortMappings":[{"Protocol":6,"ExternalPort":%d}]}`, id(lb), id(0x2001), port)
	}
	if _, _, err := h.CreateLoadBalancer(ctx, balancer(0x4000, 30080)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(os.Getenv("GATEHOUSE_FAILPOINT_FILE"), []byte(os.Getenv("GATEHOUSE_CRASH_POINT")+"=crash"), 0o600); err != nil {
		t.Fatal(err)
	}
	switch verb {
	case "plug":
		_, err = h.Plug(ctx, "rt-2", id(2), plugDocs(2))
	case "unplug":
		err = h.Unplug(ctx, id(1))
	case "create-network":
		_, _, err = h.CreateNetwork(ctx, []byte(`{"Name":"x"}`))
	case "delete-network":
		err = h.DeleteNetwork(ctx, "name:nat", 0)
	case "create-load-balancer":
		_, _, err = h.CreateLoadBalancer(ctx, balancer(0x4001, 30081))
	case "modify-load-balancer":
		_, err = h.ModifyLoadBalancer(ctx, id(0x4000), balancer(0, 30082), 0)
	default:
		err = fmt.Errorf("verb %q", verb)
	}
	t.Fatalf("%s ended: %v", verb, err)
}
