// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package images

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Credentials of one registry.
type Credentials struct{ Username, Password, IdentityToken string }

// AuthFile is a file of credentials in the form of Docker's config.json. Members
// it does not know are kept.
type AuthFile struct{ Path string }

// DefaultAuthFile is gatehouse/auth.json in the user's configuration directory.
func DefaultAuthFile() (*AuthFile, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return nil, err
	}
	return &AuthFile{Path: filepath.Join(dir, "gatehouse", "auth.json")}, nil
}

type authEntry struct {
	Auth          string `json:"auth,omitempty"` // base64 of user:password
	IdentityToken string `json:"identitytoken,omitempty"`
}

// keys under which a registry may stand; the first is the one we write. Docker
// Hub's is the old index address.
func keys(server string) []string {
	server = strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://"), "/")
	if server == DefaultDomain || server == "index.docker.io" || server == "index.docker.io/v1" {
		return []string{"https://index.docker.io/v1/", "index.docker.io", DefaultDomain}
	}
	return []string{server, "https://" + server, "http://" + server}
}

// Get answers the stored credentials of a registry; ok is false if there are none.
func (f *AuthFile) Get(server string) (c Credentials, ok bool, err error) {
	_, auths, err := f.read()
	if err != nil {
		return c, false, err
	}
	for _, k := range keys(server) {
		raw, ok := auths[k]
		if !ok {
			continue
		}
		var e authEntry
		if err := json.Unmarshal(raw, &e); err != nil {
			return c, false, fmt.Errorf("%s: auths[%q]: %w", f.Path, k, err)
		}
		c.IdentityToken = e.IdentityToken
		if e.Auth != "" {
			b, err := base64.StdEncoding.DecodeString(e.Auth)
			user, pass, found := strings.Cut(string(b), ":")
			if err != nil || !found {
				return c, false, fmt.Errorf("%s: auths[%q].auth: not the base64 of user:password; log in again", f.Path, k)
			}
			c.Username, c.Password = user, pass
		}
		return c, c != Credentials{}, nil
	}
	return c, false, nil
}

// Set stores the credentials of a registry. The file is made readable by its
// owner alone.
func (f *AuthFile) Set(server string, c Credentials) error {
	e := authEntry{IdentityToken: c.IdentityToken}
	if c.Username != "" {
		e.Auth = base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password))
	}
	return f.change(func(auths map[string]json.RawMessage) error {
		ks := keys(server)
		for _, k := range ks {
			delete(auths, k)
		}
		var err error
		auths[ks[0]], err = json.Marshal(e)
		return err
	})
}

// Delete forgets the credentials of a registry, or fails with ErrNotFound.
func (f *AuthFile) Delete(server string) error {
	return f.change(func(auths map[string]json.RawMessage) error {
		found := false
		for _, k := range keys(server) {
			if _, ok := auths[k]; ok {
				delete(auths, k)
				found = true
			}
		}
		if !found {
			return Errorf(CodeNotFound, "no credentials of %s are stored", server)
		}
		return nil
	})
}

func (f *AuthFile) read() (all, auths map[string]json.RawMessage, err error) {
	all, auths = map[string]json.RawMessage{}, map[string]json.RawMessage{}
	b, err := os.ReadFile(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return all, auths, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", f.Path, err)
	}
	if raw := all["auths"]; raw != nil {
		if err := json.Unmarshal(raw, &auths); err != nil {
			return nil, nil, fmt.Errorf("%s: auths: %w", f.Path, err)
		}
	}
	if all == nil || auths == nil { // "null" in the file
		return map[string]json.RawMessage{}, map[string]json.RawMessage{}, nil
	}
	return all, auths, nil
}

// change rewrites the file in one step: a reader sees the old or the new one.
func (f *AuthFile) change(edit func(map[string]json.RawMessage) error) error {
	all, auths, err := f.read()
	if err != nil {
		return err
	}
	if err := edit(auths); err != nil {
		return err
	}
	if all["auths"], err = json.Marshal(auths); err != nil {
		return err
	}
	b, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return err
	}
	dir := filepath.Dir(f.Path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".auth-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(b, '\n'))
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), f.Path)
}
