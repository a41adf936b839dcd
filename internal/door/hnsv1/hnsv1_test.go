// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hnsv1

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/hns"
	"gatehouse.dev/gatehouse/internal/resource"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// up translates a v1 document of a kind, and down what is stored of it.
func up(t *testing.T, kind string, raw []byte) (json.RawMessage, error) {
	t.Helper()
	load := func(into any) {
		if err := json.Unmarshal(raw, into); err != nil {
			t.Fatal(err)
		}
	}
	switch kind {
	case "network":
		var n hns.Network
		load(&n)
		return networkUp(n)
	case "endpoint":
		var e hns.Endpoint
		load(&e)
		return endpointUp(e, []json.RawMessage{json.RawMessage(`{"Type":"OutBoundNAT","ExceptionList":["10.0.0.0/8"]}`)})
	case "list":
		var l hns.PolicyList
		load(&l)
		_, doc, err := listUp(l)
		return doc, err
	}
	t.Fatalf("kind %q", kind)
	return nil, nil
}

func down(t *testing.T, kind string, raw json.RawMessage) (any, error) {
	t.Helper()
	switch {
	case kind == "network":
		return networkDown(raw)
	case kind == "endpoint":
		return endpointDown(raw, surroundings{networks: map[string]string{"9c0f0000-0000-0000-0000-000000000001": "blue"}})
	case bytes.Contains(raw, []byte("PortMappings")):
		return balancerDown(raw)
	}
	return routeDown(raw)
}

// TestGolden translates testdata/KIND-*.txtar, a document of v1 a line, to v2 and back.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			kind, _, _ := strings.Cut(filepath.Base(file), ".")
			var got strings.Builder
			for line := range strings.Lines(string(a.Files[0].Data)) {
				if line = strings.TrimSpace(line); line == "" {
					continue
				}
				doc, err := up(t, kind, []byte(line))
				if err != nil {
					got.WriteString("refused: " + err.Error() + "\n\n")
					continue
				}
				got.WriteString("v2 " + string(doc) + "\n")
				back, err := down(t, kind, doc)
				if err != nil {
					t.Fatal(err)
				}
				raw, err := encode(back)
				if err != nil {
					t.Fatal(err)
				}
				got.WriteString("v1 " + string(raw) + "\n\n")
				// What was read and is written back means the same.
				again, err := up(t, kind, raw)
				if err != nil {
					t.Fatalf("%s is not taken back: %v", raw, err)
				}
				if d := cmp.Diff(sameJSON(doc), sameJSON(again)); d != "" {
					t.Errorf("written back, %s is another document (-first +again):\n%s", line, d)
				}
			}
			if *update {
				a.Files = append(a.Files[:1], txtar.File{Name: "translated", Data: []byte(got.String())})
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(a.Files[1].Data), got.String()); d != "" {
				t.Errorf("-want +got (rewrite with -update):\n%s", d)
			}
		})
	}
}

func sameJSON(raw json.RawMessage) (v any) {
	_ = json.Unmarshal(raw, &v)
	return v
}

// TestReplace: a POST to an endpoint leaves what it lists, in one request.
func TestReplace(t *testing.T) {
	d := endpointDoc{HostComputeEndpoint: hcn.HostComputeEndpoint{Policies: []hcn.EndpointPolicy{
		{Type: hcn.OutBoundNAT, Settings: json.RawMessage(`{}`)}, {Type: hcn.ACL}, {Type: hcn.EncapOverhead},
	}}}
	got, err := replaceUp(d, []json.RawMessage{json.RawMessage(`{"Type":"ACL","Protocol":6,"Action":"Allow","Direction":"In"}`)})
	want := `{"ResourceType":"Policy","RequestType":"Update","Settings":{"Policies":[` +
		`{"Type":"ACL","Settings":{"Action":"Allow","Direction":"In","Protocols":"6"}},{"Type":"OutBoundNAT","Settings":null}]}}`
	if err != nil || string(got) != want {
		t.Errorf("replace = %s, %v; want %s", got, err, want)
	}
}

// TestEnvelope: refusals carry the service's own text and code.
func TestEnvelope(t *testing.T) {
	var _ resource.Error = (*refusal)(nil)
	status, e := describe(at("Policies[1]", refuse(hcn.HCN_E_INVALID_POLICY, "Protocol", "%q is none", "x")))
	if status != 400 || e.Success || e.Error != `Policies[1].Protocol: "x" is none ` || e.ErrorCode != uint32(hcn.HCN_E_INVALID_POLICY) {
		t.Errorf("%d %+v", status, e)
	}
}
