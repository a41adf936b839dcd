// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// Decode reads a document. ignored are the members that the document type does
// not know, "Container.Foo"; a wrong type is an *Error with the Field.
func Decode[T any](raw []byte) (doc T, ignored []string, err error) {
	if err := json.Unmarshal(raw, &doc); err != nil {
		e := &Error{Code: CodeInvalidJSON, Message: err.Error()}
		var te *json.UnmarshalTypeError
		if errors.As(err, &te) {
			e.Field = te.Field
			e.Message = fmt.Sprintf("%s where %s is wanted", te.Value, te.Type)
		}
		return doc, nil, e
	}
	again, err := json.Marshal(doc)
	if err != nil {
		return doc, nil, &Error{Code: CodeInvalidJSON, Err: err}
	}
	return doc, unknown("", raw, again, maxDepth), nil
}

// maxDepth is how deep unknown members are looked for; no document of ours is half
// as deep, and each level costs a pass.
const maxDepth = 32

// unknown lists members that were said (not zero) and are not said again.
func unknown(path string, said, again json.RawMessage, depth int) []string {
	if depth == 0 {
		return nil
	}
	said, again = bytes.TrimSpace(said), bytes.TrimSpace(again)
	if len(said) == 0 || len(again) == 0 || said[0] != again[0] {
		return nil
	}
	var out []string
	switch said[0] {
	case '{':
		var a, b map[string]json.RawMessage
		if json.Unmarshal(said, &a) != nil || json.Unmarshal(again, &b) != nil {
			return nil
		}
		lower := make(map[string]json.RawMessage, len(b))
		for k, v := range b {
			lower[strings.ToLower(k)] = v
		}
		for k, v := range a {
			p := k
			if path != "" {
				p = path + "." + k
			}
			if w, ok := lower[strings.ToLower(k)]; ok {
				out = append(out, unknown(p, v, w, depth-1)...)
			} else if !isZero(v) {
				out = append(out, p)
			}
		}
		sort.Strings(out)
	case '[':
		var a, b []json.RawMessage
		if json.Unmarshal(said, &a) != nil || json.Unmarshal(again, &b) != nil {
			return nil
		}
		for i := range min(len(a), len(b)) {
			out = append(out, unknown(fmt.Sprintf("%s[%d]", path, i), a[i], b[i], depth-1)...)
		}
	}
	return out
}

// isZero: zero and absent are the same, so omitting it loses nothing.
func isZero(v json.RawMessage) bool {
	var x any
	return json.Unmarshal(v, &x) == nil && zero(x)
}

func zero(x any) bool {
	switch x := x.(type) {
	case nil:
		return true
	case bool:
		return !x
	case float64:
		return x == 0
	case string:
		return x == ""
	case []any:
		return !slices.ContainsFunc(x, func(e any) bool { return !zero(e) })
	case map[string]any:
		for _, e := range x {
			if !zero(e) {
				return false
			}
		}
		return true
	}
	return false
}
