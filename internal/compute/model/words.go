// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"errors"
	"strings"
)

// SplitWords splits a command line by the shell's word rules (IEEE Std 1003.1,
// XCU 2.2 quoting) without any expansion.
func SplitWords(s string) ([]string, error) {
	var (
		words []string
		word  strings.Builder
		in    bool // inside a word, maybe an empty quoted one
	)
	r := []rune(s)
	for i := 0; i < len(r); i++ {
		switch c := r[i]; c {
		case ' ', '\t', '\n':
			if in {
				words = append(words, word.String())
				word.Reset()
				in = false
			}
		case '\\':
			if i+1 == len(r) {
				return nil, errors.New("ends in a backslash")
			}
			i++
			in = true
			if r[i] != '\n' {
				word.WriteRune(r[i])
			}
		case '\'':
			in = true
			for i++; ; i++ {
				if i >= len(r) {
					return nil, errors.New("a single quote is not closed")
				}
				if r[i] == '\'' {
					break
				}
				word.WriteRune(r[i])
			}
		case '"':
			in = true
			for i++; ; i++ {
				if i >= len(r) {
					return nil, errors.New("a double quote is not closed")
				}
				if r[i] == '"' {
					break
				}
				if r[i] == '\\' && i+1 < len(r) && strings.ContainsRune("$`\"\\\n", r[i+1]) {
					if i++; r[i] == '\n' {
						continue
					}
				}
				word.WriteRune(r[i])
			}
		default:
			in = true
			word.WriteRune(c)
		}
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}
