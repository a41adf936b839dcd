// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"encoding/json"
	"errors"
	"strings"
)

// members splits a JSON object.
func members(raw json.RawMessage) (map[string]json.RawMessage, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	if m == nil {
		return nil, errors.New("null")
	}
	return m, nil
}

// Endpoint fills ID and Name of an endpoint document where they are absent and
// returns the ID it has then.
func Endpoint(raw json.RawMessage, id, name string) (json.RawMessage, string, error) {
	m, err := members(raw)
	if err != nil {
		return nil, "", err
	}
	get := func(key string) string {
		for k, v := range m {
			var s string
			if strings.EqualFold(k, key) && json.Unmarshal(v, &s) == nil && s != "" {
				return s
			}
		}
		return ""
	}
	set := func(key, value string) {
		for k := range m {
			if strings.EqualFold(k, key) {
				delete(m, k)
			}
		}
		m[key], _ = json.Marshal(value)
	}
	if have := get("ID"); have != "" {
		id = have
	} else {
		set("ID", id)
	}
	if get("Name") == "" {
		set("Name", name)
	}
	out, err := json.Marshal(m)
	return out, id, err
}
