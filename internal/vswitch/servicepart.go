// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"iter"
	"slices"
)

// ServicePart is services that stay as they are: where one changes, there is another
// part. Make it with NewServicePart.
type ServicePart struct {
	Services []Service
	direct   bool // one has ServiceDSR
}

// NewServicePart takes services, which must not be changed any more, nor what their
// slices share.
func NewServicePart(services []Service) *ServicePart {
	return &ServicePart{services, hasDirect(services)}
}

func hasDirect(services []Service) bool {
	return slices.ContainsFunc(services, func(x Service) bool { return x.Flags&ServiceDSR != 0 })
}

// AllServices are those of Services and of all parts.
func (s *State) AllServices() iter.Seq[*Service] {
	return func(yield func(*Service) bool) {
		for i := range s.Services {
			if !yield(&s.Services[i]) {
				return
			}
		}
		for _, p := range s.ServiceParts {
			if p == nil {
				continue
			}
			for i := range p.Services {
				if !yield(&p.Services[i]) {
					return
				}
			}
		}
	}
}

// direct reports whether any service is one that the backend's host answers itself.
func (s *State) direct() bool {
	return hasDirect(s.Services) || slices.ContainsFunc(s.ServiceParts, func(p *ServicePart) bool { return p != nil && p.direct })
}

// partMemo is a ServicePart as it was compiled last.
type partMemo struct {
	was   *ServicePart
	memos []*serviceMemo
	kept  uint64 // the round in which it was not looked into
}

// keepParts finds the parts that are as they were; nil stands for one that is to be
// looked into. none: something changed that services depend on, so none is kept.
func (m *servicesMemo) keepParts(parts []*ServicePart, round uint64, none bool) (kept []*partMemo, services int) {
	kept = make([]*partMemo, len(parts))
	for i, p := range parts {
		if p == nil {
			continue
		}
		services += len(p.Services)
		if !none && i < len(m.parts) && m.parts[i] != nil && m.parts[i].was == p {
			kept[i] = m.parts[i]
			kept[i].kept = round
		}
	}
	return kept, services
}

// met reports whether a service is in the State of this round.
func (x *serviceMemo) met(round uint64) bool {
	return x.round == round || x.part != nil && x.part.kept == round
}
