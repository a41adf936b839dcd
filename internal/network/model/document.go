// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
)

// NetworkDoc is a network on the wire: the client's document and the members that
// only the service knows.
type NetworkDoc struct {
	hcn.HostComputeNetwork
	// Ipams stands for the embedded member of that name; its subnets have ids.
	Ipams            []Ipam          `json:",omitempty"`
	Owner            string          `json:",omitempty"`
	Version          uint64          `json:",omitempty"`
	AdditionalParams json.RawMessage `json:",omitempty"`
	State            uint16          `json:",omitempty"`
}

// Ipam as in hcn, with our Subnet.
type Ipam struct {
	Type    string   `json:",omitempty"`
	Subnets []Subnet `json:",omitempty"`
}

// Subnet with the members of the schema that the Go struct lacks.
type Subnet struct {
	hcn.Subnet
	ID        string     `json:",omitempty"`
	IpSubnets []IpSubnet `json:",omitempty"`
}

// IpSubnet is a smaller pool inside a subnet's prefix.
type IpSubnet struct {
	ID              string `json:",omitempty"`
	IpAddressPrefix string `json:",omitempty"`
	Flags           uint32 `json:",omitempty"`
}

// EndpointDoc is an endpoint on the wire.
type EndpointDoc struct {
	hcn.HostComputeEndpoint
	// IpConfigurations stands for the embedded member of that name.
	IpConfigurations []IpConfig      `json:",omitempty"`
	Owner            string          `json:",omitempty"`
	Version          uint64          `json:",omitempty"`
	AdditionalParams json.RawMessage `json:",omitempty"`
	State            uint16          `json:",omitempty"`
	// Aliases are more names of the endpoint on its network. AdditionalParams
	// {"Aliases":[…]} means the same, for clients whose Go struct lacks the member.
	Aliases []string `json:",omitempty"`
}

// IpConfig with the pool it was asked from.
type IpConfig struct {
	hcn.IpConfig
	IpSubnetId string `json:",omitempty"`
}

// NamespaceDoc is a namespace on the wire.
type NamespaceDoc struct {
	hcn.HostComputeNamespace
	Name             string          `json:",omitempty"`
	Owner            string          `json:",omitempty"`
	Version          uint64          `json:",omitempty"`
	AdditionalParams json.RawMessage `json:",omitempty"`
	State            uint16          `json:",omitempty"`
	NamespaceGuid    string          `json:",omitempty"`
	// NetNsPath is the persistent network namespace. A create that names one hands
	// in a namespace that gatehouse neither makes nor removes.
	NetNsPath string `json:",omitempty"`
}

// States of objects (the numbers of the v1 package).
const (
	StateCreated         uint16 = 1
	StateAttached        uint16 = 2
	StateAttachedSharing uint16 = 3
	StateDetached        uint16 = 4
	StateDegraded        uint16 = 5
)

// DecodeNetwork reads a document; unknown members are ignored.
func DecodeNetwork(body []byte) (NetworkDoc, error) {
	var d NetworkDoc
	err := decode(body, &d)
	return d, err
}

// DecodeEndpoint reads a document; unknown members are ignored.
func DecodeEndpoint(body []byte) (EndpointDoc, error) {
	var d EndpointDoc
	err := decode(body, &d)
	return d, err
}

// DecodeNamespace reads a document; unknown members are ignored.
func DecodeNamespace(body []byte) (NamespaceDoc, error) {
	var d NamespaceDoc
	err := decode(body, &d)
	return d, err
}

// modifyRequest is the common form of the three modify requests.
type modifyRequest struct {
	ResourceType string
	RequestType  hcn.RequestType
	Settings     json.RawMessage
}

func decodeModify(body []byte) (modifyRequest, error) {
	var r modifyRequest
	if err := decode(body, &r); err != nil {
		return r, err
	}
	// Some clients send the settings as a string that holds the JSON.
	if s := bytes.TrimSpace(r.Settings); len(s) > 0 && s[0] == '"' {
		var text string
		if err := json.Unmarshal(s, &text); err != nil {
			return r, refuseAt(hcn.HCN_E_INVALID_JSON, "Settings", "%v", err)
		}
		r.Settings = json.RawMessage(text)
	}
	return r, nil
}

// decode reads one JSON object and says in the words of an Error what is wrong.
func decode(body []byte, out any) error {
	trimmed := bytes.TrimSpace(body)
	if len(trimmed) == 0 {
		return refuse(hcn.HCN_E_INVALID_JSON, "the document is empty; send a JSON object")
	}
	if trimmed[0] != '{' {
		return refuse(hcn.HCN_E_INVALID_JSON, "the document is not a JSON object")
	}
	err := json.Unmarshal(trimmed, out)
	var te *json.UnmarshalTypeError
	var se *json.SyntaxError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &te):
		return refuseAt(hcn.HCN_E_INVALID_JSON, fieldPath(te.Field), "a %s is not a %s", te.Value, kindName(te.Type.Kind().String()))
	case errors.As(err, &se):
		return refuse(hcn.HCN_E_INVALID_JSON, "invalid JSON at byte %d: %v", se.Offset, err)
	}
	return refuse(hcn.HCN_E_INVALID_JSON, "invalid JSON: %v", err)
}

// fieldPath drops the names of embedded structs that encoding/json reports.
func fieldPath(f string) string {
	for _, p := range []string{"HostComputeNetwork.", "HostComputeEndpoint.", "HostComputeNamespace.", "HostComputeLoadBalancer.", "HostComputeRoute.", "IpConfig.", "Subnet."} {
		f = strings.ReplaceAll(f, p, "")
	}
	return f
}

func kindName(k string) string {
	switch {
	case strings.HasPrefix(k, "uint"), strings.HasPrefix(k, "int"):
		return "number of its range (" + k + ")"
	case k == "slice":
		return "list"
	case k == "struct", k == "map":
		return "object"
	}
	return k
}

// Encode writes a document as it goes on the wire: policy settings stay byte for
// byte (json.Marshal would escape <, > and &).
func Encode(doc any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(doc); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// digest identifies the body of a create, so that a repeated one is recognised.
func digest(body []byte) string {
	var b bytes.Buffer
	if json.Compact(&b, body) != nil {
		b.Reset()
		b.Write(body)
	}
	sum := sha256.Sum256(b.Bytes())
	return hex.EncodeToString(sum[:16])
}

// checkSchema applies the rule on versions and returns the one to answer with.
func checkSchema(v hcn.SchemaVersion) (hcn.SchemaVersion, error) {
	switch {
	case v == hcn.SchemaVersion{}:
		return hcn.V2SchemaVersion(), nil
	case v.Major == 2 && v.Minor >= 0:
		return v, nil
	}
	return v, refuseAt(hcn.HCN_E_INVALID_JSON, "SchemaVersion", "%d.%d is not spoken here; use 2.0", v.Major, v.Minor)
}

const zeroGUID = "00000000-0000-0000-0000-000000000000"

// parseGUID returns the lower-case form of a GUID without braces.
func parseGUID(s string) (string, bool) {
	if len(s) != 36 {
		return "", false
	}
	for i := range len(s) {
		c := s[i]
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return "", false
			}
			continue
		}
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return "", false
		}
	}
	return strings.ToLower(s), true
}

// takeID returns the id of a new object: the document's, or a fresh one.
func takeID(given string, fresh func() string) (string, error) {
	if given == "" || given == zeroGUID {
		return fresh(), nil
	}
	id, ok := parseGUID(given)
	if !ok {
		return "", refuseAt(hcn.HCN_E_GUID_CONVERSION_FAILURE, "ID", "%q is not a GUID (8-4-4-4-12 hex digits)", given)
	}
	return id, nil
}
