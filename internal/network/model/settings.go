// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"bytes"
	"encoding/json"
	"strings"
)

// setMember returns raw, a JSON object, with the value of one member replaced, or
// the member added at the end. Everything else stays byte for byte. Names compare
// without case, as they decode.
func setMember(raw json.RawMessage, name string, value []byte) json.RawMessage {
	trimmed := bytes.TrimSpace(raw)
	if len(trimmed) == 0 || trimmed[0] != '{' {
		return json.RawMessage(`{"` + name + `":` + string(value) + `}`)
	}
	d := json.NewDecoder(bytes.NewReader(trimmed))
	if _, err := d.Token(); err != nil { // {
		return raw
	}
	start, end, members := -1, -1, 0
	for d.More() {
		tok, err := d.Token()
		key, ok := tok.(string)
		if err != nil || !ok {
			return raw
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return raw
		}
		members++
		if strings.EqualFold(key, name) { // the last of equal names is the one that decodes
			end = int(d.InputOffset())
			start = end - len(v)
		}
	}
	var b bytes.Buffer
	if start >= 0 {
		b.Write(trimmed[:start])
		b.Write(value)
		b.Write(trimmed[end:])
		return b.Bytes()
	}
	b.Write(bytes.TrimRight(trimmed[:len(trimmed)-1], " \t\r\n"))
	if members > 0 {
		b.WriteByte(',')
	}
	b.WriteString(`"` + name + `":`)
	b.Write(value)
	b.WriteByte('}')
	return b.Bytes()
}

// canonical is a form in which equal settings are equal text: members sorted, no
// white space, absent and null as {}.
func canonical(raw json.RawMessage) string {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil || v == nil {
		v = map[string]any{}
	}
	out, err := Encode(v)
	if err != nil {
		return string(raw)
	}
	return string(out)
}

// isEmptySettings: absent, null or {}.
func isEmptySettings(raw json.RawMessage) bool { return canonical(raw) == "{}" }
