// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
)

// Envelope is every answer below /hns/v1.
type Envelope struct {
	Success bool
	Error   string `json:",omitempty"`
	// ErrorCode is ours: the code that package hcn has for the refusal.
	ErrorCode uint32          `json:",omitempty"`
	Output    json.RawMessage `json:",omitempty"`
}

// Error is a refusal. Its text is what the v1 package makes of it.
type Error struct {
	Text string // as the service wrote it
	Code hcn.ErrorCode
	Err  error // *hcn.HcnError
}

func (e *Error) Error() string { return "hns failed with error : " + e.Text }

func (e *Error) Unwrap() error { return e.Err }

// Call does one request of the v1 API over c (nil = hcn.DefaultClient): a method, a
// path as "/endpoints/", a body (nil, json.RawMessage, or what marshals) and, where
// out is not nil, the Output decoded into it. A refusal is an *Error.
func Call(ctx context.Context, c *hcn.Client, method, path string, in, out any) error {
	if c == nil {
		c = hcn.DefaultClient
	}
	op := "hns " + method + " " + path
	var e Envelope
	err := c.Call(ctx, op, method, "/hns/v1/"+strings.TrimPrefix(path, "/"), in, &e)
	var refused *hcn.HcnError
	switch {
	case errors.As(err, &refused):
		return &Error{refused.Record().Error, hcn.ErrorCode(refused.Record().ErrorCode), err}
	case err != nil:
		return err
	case out == nil || len(e.Output) == 0:
		return nil
	}
	if err := json.Unmarshal(e.Output, out); err != nil {
		return fmt.Errorf("%s: decode answer: %w", op, err)
	}
	return nil
}
