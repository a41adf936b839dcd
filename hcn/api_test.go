// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/constant"
	"go/importer"
	"go/parser"
	"go/printer"
	"go/token"
	"go/types"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var originals = flag.String("originals", "", "directories of the packages for Windows, the newest first: write testdata/api.txt from them")

// apiFile holds names, kinds, types, tags and values that the packages for Windows
// export, one a line. It is made by
//
//	go mod download github.com/Microsoft/hnslib@v0.1.3 github.com/Microsoft/hcsshim@v0.15.0
//	M=$(go env GOMODCACHE)/github.com/\!microsoft
//	go test ./hcn -run TestAPI -originals $M/hnslib@v0.1.3/hcn,$M/hcsshim@v0.15.0/hcn
const apiFile = "testdata/api.txt"

// surface is what a package exports: a line for each name, "Type.Method" for methods.
type surface map[string]string

// onlyMath resolves the one import whose constants a declaration needs.
type onlyMath struct{ types.Importer }

func (i onlyMath) Import(path string) (*types.Package, error) {
	if path == "math" {
		return i.Importer.Import(path)
	}
	return nil, errors.New("not needed")
}

// surfaceOf reads the package in dir, whatever its build tags; the types of other
// modules stay names.
func surfaceOf(t *testing.T, dir string) surface {
	t.Helper()
	fset := token.NewFileSet()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, n := range names {
		if strings.HasSuffix(n, "_test.go") || strings.HasPrefix(filepath.Base(n), "zsyscall_") {
			continue // generated calls into Windows are nothing that a program can mean here
		}
		f, err := parser.ParseFile(fset, n, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Defs: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: onlyMath{importer.ForCompiler(fset, "source", nil)}, Error: func(error) {}}
	_, _ = conf.Check("hcn", fset, files, info) // what does not resolve is no constant of the API
	s := surface{}
	r := reader{fset, info, s}
	for _, f := range files {
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				r.function(d)
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch spec := spec.(type) {
					case *ast.TypeSpec:
						r.typ(spec)
					case *ast.ValueSpec:
						r.values(d.Tok, spec)
					}
				}
			}
		}
	}
	return s
}

type reader struct {
	fset *token.FileSet
	info *types.Info
	s    surface
}

func (r reader) text(n ast.Node) string {
	var b bytes.Buffer
	_ = printer.Fprint(&b, r.fset, n)
	return b.String()
}

func (r reader) fields(l *ast.FieldList) string {
	var out []string
	for _, f := range l.List {
		for range max(1, len(f.Names)) {
			out = append(out, r.text(f.Type))
		}
	}
	return "(" + strings.Join(out, ", ") + ")"
}

func (r reader) function(d *ast.FuncDecl) {
	if !d.Name.IsExported() {
		return
	}
	name, line := d.Name.Name, "func "+d.Name.Name
	if d.Recv != nil {
		recv := r.text(d.Recv.List[0].Type)
		base := strings.TrimPrefix(recv, "*")
		if !ast.IsExported(base) {
			return
		}
		name, line = base+"."+name, "method ("+recv+") "+name
	}
	line += r.fields(d.Type.Params)
	if d.Type.Results != nil {
		line += " " + r.fields(d.Type.Results)
	}
	r.s[name] = line
}

func (r reader) typ(d *ast.TypeSpec) {
	if !d.Name.IsExported() {
		return
	}
	line := "type " + d.Name.Name + " "
	if d.Assign.IsValid() {
		line += "= "
	}
	st, ok := d.Type.(*ast.StructType)
	if !ok {
		r.s[d.Name.Name] = line + r.text(d.Type)
		return
	}
	var out []string
	for _, f := range st.Fields.List {
		tag := ""
		if f.Tag != nil {
			tag = " " + f.Tag.Value
		}
		if len(f.Names) == 0 { // the original's lives in an internal package: its name counts
			text := r.text(f.Type)
			out = append(out, "embedded "+strings.TrimPrefix(text[strings.LastIndex(text, ".")+1:], "*"))
		}
		for _, n := range f.Names {
			if n.IsExported() {
				out = append(out, n.Name+" "+r.text(f.Type)+tag)
			}
		}
	}
	r.s[d.Name.Name] = line + "struct { " + strings.Join(out, "; ") + " }"
}

func (r reader) values(tok token.Token, d *ast.ValueSpec) {
	for i, n := range d.Names {
		if !n.IsExported() {
			continue
		}
		typ := types.TypeString(r.info.Defs[n].Type(), func(*types.Package) string { return "" })
		value := "0"
		if c, ok := r.info.Defs[n].(*types.Const); ok {
			value = "?"
			if v := c.Val(); v.Kind() != constant.Unknown {
				value = v.ExactString()
			}
		} else if len(d.Values) > i {
			value = r.value(d.Values[i])
		}
		r.s[n.Name] = fmt.Sprintf("%s %s %s = %s", tok, n.Name, typ, value)
	}
}

// value of an initial value: a constant expression, or the version ranges in a composite
// literal; "?" is what only another module knows.
func (r reader) value(e ast.Expr) string {
	if v := r.info.Types[e].Value; v != nil && v.Kind() != constant.Unknown {
		return v.ExactString()
	}
	lit, ok := e.(*ast.CompositeLit)
	if !ok {
		return "?"
	}
	var out []string
	for _, el := range lit.Elts {
		if kv, ok := el.(*ast.KeyValueExpr); ok {
			el = kv.Value
		}
		out = append(out, r.value(el))
	}
	return "{" + strings.Join(out, " ") + "}"
}

// rangesOf gives ours the form of a literal.
func rangesOf(rs VersionRanges) string {
	return strings.NewReplacer("[", "{", "]", "}").Replace(fmt.Sprint(rs))
}

func TestAPI(t *testing.T) {
	if *originals != "" {
		writeAPI(t, strings.Split(*originals, ","))
	}
	raw, err := os.ReadFile(apiFile)
	if err != nil {
		t.Fatal(err)
	}
	ours := surfaceOf(t, ".")
	for name, v := range map[string]VersionRanges{
		"HNSVersion1803": HNSVersion1803, "V2ApiSupport": V2ApiSupport, "RemoteSubnetVersion": RemoteSubnetVersion,
		"HostRouteVersion": HostRouteVersion, "DSRVersion": DSRVersion,
		"Slash32EndpointPrefixesVersion":  Slash32EndpointPrefixesVersion,
		"AclSupportForProtocol252Version": AclSupportForProtocol252Version, "SessionAffinityVersion": SessionAffinityVersion,
		"IPv6DualStackVersion": IPv6DualStackVersion, "SetPolicyVersion": SetPolicyVersion, "VxlanPortVersion": VxlanPortVersion,
		"L4ProxyPolicyVersion": L4ProxyPolicyVersion, "L4WfpProxyPolicyVersion": L4WfpProxyPolicyVersion,
		"TierAclPolicyVersion": TierAclPolicyVersion, "NetworkACLPolicyVersion": NetworkACLPolicyVersion,
		"NestedIpSetVersion": NestedIpSetVersion, "DisableHostPortVersion": DisableHostPortVersion,
		"ModifyLoadbalancerVersion": ModifyLoadbalancerVersion, "AccelnetVersion": AccelnetVersion,
	} {
		ours[name] = "var " + name + " VersionRanges = " + rangesOf(v)
	}
	kinds := map[string]int{}
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		kinds[word]++
		name, _, _ := strings.Cut(strings.NewReplacer("(", " ", "*", "").Replace(rest), " ")
		if word == "method" {
			recv, method, _ := strings.Cut(rest, ") ")
			name = strings.Trim(recv, "(*") + "." + method[:strings.Index(method, "(")]
		}
		have, ok := ours[name]
		if known, found := strings.CutSuffix(line, "?"); found { // TestCodes knows them
			known, _, _ = strings.Cut(known, " invalid type")
			if strings.HasPrefix(have, known) {
				continue
			}
		}
		switch {
		case !ok:
			t.Errorf("missing: %s", line)
		case have != line:
			t.Errorf("have %s\nwant %s", have, line)
		}
	}
	// 93 types of the newer package and one of the older: the file is whole.
	if kinds["type"] != 93+1 || kinds["func"] != 59 || kinds["method"] != 30 {
		t.Errorf("counts: %v", kinds)
	}
}

// writeAPI lets the first package win where two differ.
func writeAPI(t *testing.T, dirs []string) {
	t.Helper()
	all := surface{}
	out := "# What the packages for Windows export; hcn/api_test.go says how this file is made.\n"
	for _, dir := range slices.Backward(dirs) {
		maps.Copy(all, surfaceOf(t, dir))
	}
	for _, dir := range dirs {
		out += "# " + filepath.Base(filepath.Dir(dir)) + "\n"
	}
	for _, line := range slices.Sorted(maps.Values(all)) {
		out += line + "\n"
	}
	if err := os.WriteFile(apiFile, []byte(out), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The values that the packages for Windows take from a system package.
func TestCodes(t *testing.T) {
	for code, want := range map[ErrorCode]uint32{
		ERROR_NOT_FOUND: 0x490, HCN_E_PORT_ALREADY_EXISTS: 0x803b0013, HCN_E_NOTIMPL: 0x80004001,
		HCN_E_NETWORK_NOT_FOUND: 0x803b0001, HCN_E_ENDPOINT_NOT_FOUND: 0x803b0002, HCN_E_PORT_NOT_FOUND: 0x803b0007,
		HCN_E_INVALID_IP: 0x803b001e, HCN_E_ADAPTER_NOT_FOUND: 0x803b0006,
	} {
		if uint32(code) != want {
			t.Errorf("%#x, want %#x", uint32(code), want)
		}
	}
	if m := V2ApiSupport[0].MaxVersion; m != (Version{math.MaxInt32, math.MaxInt32}) {
		t.Error(m)
	}
}
