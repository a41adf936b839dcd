// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package api

import (
	"net/http"

	"gatehouse.dev/gatehouse/hcs"
)

func (v hcsHandler) policy(w http.ResponseWriter, r *http.Request) error {
	p, err := v.h.Policy(r.Context())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, p)
	return nil
}

func (v hcsHandler) setPolicy(w http.ResponseWriter, r *http.Request) error {
	b, err := body(r, false)
	if err != nil {
		return err
	}
	// A member that is not known is refused always: it might be a restriction.
	p, ignored, err := hcs.Decode[hcs.Policy](b)
	if err != nil {
		return err
	}
	if len(ignored) > 0 {
		return &hcs.Error{Code: hcs.CodeInvalidJSON, Field: ignored[0], Message: "unknown member"}
	}
	return v.replacePolicy(w, r, &p)
}

// dropPolicy goes back to the configuration's.
func (v hcsHandler) dropPolicy(w http.ResponseWriter, r *http.Request) error {
	return v.replacePolicy(w, r, nil)
}

func (v hcsHandler) replacePolicy(w http.ResponseWriter, r *http.Request, p *hcs.Policy) error {
	ctx, cancel := verb(r)
	defer cancel()
	now, err := v.h.SetPolicy(ctx, p)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, now)
	return nil
}
