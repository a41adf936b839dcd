// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// Numbers are counters of what is handed out and stored.
type Numbers struct {
	Sequence  uint64 // order of creation, over all kinds
	Port      vswitch.PortID
	Network   vswitch.NetworkID
	Namespace uint32
	Service   vswitch.ServiceID
	ACL       vswitch.ACLID
	Rule      vswitch.RuleID
	AddrSet   vswitch.AddrSetID
	NATPool   vswitch.NATPoolID
}

// Which numbersIn a number is in.
const (
	portNumbers = iota
	networkNumbers
	namespaceNumbers
	serviceNumbers
	aclNumbers
	ruleNumbers
	natPoolNumbers
	numberSets // how many there are
)

func numberKey(n uint32) string {
	return string([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

func (w *World) use(set int, n uint32) {
	w.numbersIn[set] = w.numbersIn[set].set(numberKey(n), struct{}{})
}
func (w *World) free(set int, n uint32) { w.numbersIn[set] = w.numbersIn[set].del(numberKey(n)) }

// next hands out the number after last, cyclic in low..high, that is not in use:
// so one that was given back is not given out again at once.
func (w *World) next(set int, last, low, high uint32) (uint32, bool) {
	n := last
	for range high - low + 1 {
		n++
		if n < low || n > high {
			n = low
		}
		if !w.numbersIn[set].has(numberKey(n)) {
			w.use(set, n)
			return n, true
		}
	}
	return 0, false
}

func (w *World) takePort() (vswitch.PortID, error) {
	n, ok := w.next(portNumbers, uint32(w.numbers.Port), 1, uint32(ResolverPort)-1)
	if !ok {
		return 0, refuse(hcn.HCN_E_DEGRADED_OPERATION, "all %d ports of the switch are in use; delete endpoints that are not needed", ResolverPort-1)
	}
	w.numbers.Port = vswitch.PortID(n)
	return vswitch.PortID(n), nil
}

func (w *World) takeServiceNumber() (vswitch.ServiceID, error) {
	n, ok := w.next(serviceNumbers, uint32(w.numbers.Service), 1, uint32(firstResolverService)-1)
	if !ok {
		return 0, refuse(hcn.HCN_E_DEGRADED_OPERATION, "all numbers of services are in use; delete load balancers or services that are not needed")
	}
	w.numbers.Service = vswitch.ServiceID(n)
	return vswitch.ServiceID(n), nil
}

func (w *World) takeNetworkNumber() (vswitch.NetworkID, error) {
	n, ok := w.next(networkNumbers, uint32(w.numbers.Network), 1, uint32(resolverNetwork)-1)
	if !ok {
		return 0, refuse(hcn.HCN_E_DEGRADED_OPERATION, "all %d networks of the switch are in use; delete networks that are not needed", resolverNetwork-1)
	}
	w.numbers.Network = vswitch.NetworkID(n)
	return vswitch.NetworkID(n), nil
}

// takeNamespaceNumber: numbers of namespaces need not be unique where the caller
// chooses them; ours are. 1 is the host's own compartment.
func (w *World) takeNamespaceNumber() uint32 {
	n := w.numbers.Namespace
	for {
		n++
		if n < 2 {
			n = 2
		}
		used := false
		for range w.numbersIn[namespaceNumbers].prefixed(numberKey(n)) {
			used = true
			break
		}
		if !used {
			w.numbers.Namespace = n
			return n
		}
	}
}

func (w *World) sequence() uint64 {
	w.numbers.Sequence++
	return w.numbers.Sequence
}
