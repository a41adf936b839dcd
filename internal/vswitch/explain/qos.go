// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"fmt"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// guard is what the guard of ep_in does to what comes by the port's own device.
// Whether a bucket is level at this moment is not asked: a packet is explained as
// if its port had been silent.
func (w *walk) guard(ifindex uint32) {
	if ifindex != w.in.Ifindex {
		return
	}
	if w.in.Pps != 0 {
		w.note(layMeter, w.portName(w.inPort), "", "pass", "it may send %d packets a second", w.in.Pps)
	}
	if w.in.Shaper != 0 {
		w.note(layMeter, w.portName(w.inPort), "", "pass", "what it sends waits in the queue of device %d, and goes on at the other end", w.in.Shaper)
	}
}

// priority is L10: which class of a queue on its way the packet is of.
func (w *walk) priority(l line) {
	if l.ops&bpf.SwitchGhOpGH_OP_PRIO == 0 || l.outKind == bpf.SwitchGhOutKindGH_OUT_PEER || l.outKind == bpf.SwitchGhOutKindGH_OUT_INGRESS {
		return
	}
	w.t.Raw.Priority = 1<<16 | uint32(l.class) // GH_CLASS
	w.step(Step{Layer: layerName(bpf.SwitchGhLayerGH_LAYER_QOS), Rule: fmt.Sprintf("class 1:%x", l.class), Verdict: "pass",
		Reason: "queues on its way see its class"})
}
