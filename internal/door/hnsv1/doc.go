// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package hnsv1 is the door for programs that speak the first version of the Windows
// host networking API: documents of package hns below /hns/v1, in an envelope. It
// translates them to HCN documents and verbs of the same collections as /hcn/v2, and
// the answers back, and holds no state.
//
// Translation is pure (network.go, endpoint.go, list.go, policy.go); the verbs are in
// handler.go and attach.go.
//
// Be aware:
//   - what v2 has no member for (an OutBoundNAT that endpoints inherit, a DNS
//     compartment) is kept in the object's AdditionalParams under "HNSv1".
//   - policies that v1 has no form for are shown, and taken, in v2's form; so a v1
//     client that writes back what it read loses nothing.
package hnsv1

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
)

// refusal implements resource.Error for what is wrong in a v1 document itself.
type refusal struct {
	code        hcn.ErrorCode
	field, text string
}

func refuse(code hcn.ErrorCode, field, format string, a ...any) error {
	return &refusal{code, field, fmt.Sprintf(format, a...)}
}

func (r *refusal) Error() string {
	if r.field == "" {
		return r.text
	}
	return r.field + ": " + r.text
}

func (r *refusal) HTTPStatus() int { return r.code.HTTPStatus() }

func (r *refusal) Record() any {
	return hcn.Record{Error: r.Error() + " ", ErrorCode: uint32(r.code), Field: r.field}
}

// at puts a prefix before the member of a refusal.
func at(prefix string, err error) error {
	var r *refusal
	if !errors.As(err, &r) {
		return err
	}
	c := *r
	c.field = strings.TrimSuffix(prefix+"."+c.field, ".")
	return &c
}

// extras are what v1 has and v2 has not: {"HNSv1":{…}} in AdditionalParams.
type extras struct {
	Policies             []json.RawMessage `json:",omitempty"` // of a network: endpoints inherit them
	DNSServerCompartment uint32            `json:",omitempty"`
	EnableInternalDNS    bool              `json:",omitempty"`
}

func (x extras) params() (json.RawMessage, error) {
	if len(x.Policies) == 0 && x.DNSServerCompartment == 0 && !x.EnableInternalDNS {
		return nil, nil
	}
	return encode(struct{ HNSv1 extras }{x})
}

func extrasOf(params json.RawMessage) extras {
	var p struct{ HNSv1 extras }
	_ = json.Unmarshal(params, &p) // another shape is somebody else's
	return p.HNSv1
}

// encode keeps raw settings byte for byte: json.Marshal would escape <, > and &.
func encode(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// decode reads a request's document; an empty one is {} where that is allowed.
func decode(body []byte, out any) error {
	err := json.Unmarshal(body, out)
	var te *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &te):
		return refuse(hcn.HCN_E_INVALID_JSON, te.Field, "a %s does not fit here", te.Value)
	}
	return refuse(hcn.HCN_E_INVALID_JSON, "", "the request is not a JSON document of this kind: %v", err)
}

// list splits a comma list.
func list(s string) (out []string) {
	for w := range strings.SplitSeq(s, ",") {
		if w = strings.TrimSpace(w); w != "" {
			out = append(out, w)
		}
	}
	return out
}
