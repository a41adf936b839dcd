// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// rawFlags say where a raw verb's document comes from.
type rawFlags struct {
	file string
}

// document is the body of a raw verb: -f FILE, or standard input when it is piped
// in, else none.
func (a *app) document(file string) ([]byte, error) {
	switch {
	case file == "-":
		return io.ReadAll(a.in)
	case file != "":
		return os.ReadFile(file)
	}
	if fi, err := a.in.Stat(); err == nil && fi.Mode()&os.ModeCharDevice == 0 {
		return io.ReadAll(a.in)
	}
	return nil, nil
}

// raw sends one request and prints the answer as it came.
func (a *app) raw(c *cobra.Command, method, path string, body []byte) error {
	var r io.Reader
	if len(bytes.TrimSpace(body)) > 0 {
		r = bytes.NewReader(body)
	}
	resp, err := a.host().Do(c.Context(), method, path, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if strings.Contains(resp.Header.Get("Content-Type"), "ndjson") {
		_, err = io.Copy(a.out, resp.Body)
		return err
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil || len(bytes.TrimSpace(b)) == 0 {
		return err
	}
	var out bytes.Buffer
	if json.Indent(&out, bytes.TrimSpace(b), "", "  ") != nil {
		_, err = a.out.Write(b)
		return err
	}
	fmt.Fprintln(a.out, out.String())
	return nil
}

// kinds of hcn documents, plural and singular.
func kindOf(s string) (string, error) {
	known := []string{"networks", "endpoints", "namespaces", "loadbalancers", "sdnroutes", "ports", "guestnetworkservices"}
	if slices.Contains(known, s) {
		return s, nil
	}
	if slices.Contains(known, s+"s") {
		return s + "s", nil
	}
	return "", fmt.Errorf("kind %q: none of %s", s, strings.Join(known, ", "))
}

func (a *app) hcnCmd() *cobra.Command {
	var f rawFlags
	var query string
	c := &cobra.Command{
		Use: "hcn VERB KIND [ID]", Short: "raw HCN documents in and out",
		Long: `Raw HCN documents in and out.

  hcn list KIND [--query FILTER]     every document, or those that a JSON filter selects
  hcn get KIND ID                    one document; ID is a GUID or name:NAME
  hcn create KIND [-f FILE]          the document comes from FILE or standard input
  hcn modify KIND ID [-f FILE]       so does the modify request
  hcn delete KIND ID
  hcn stats endpoints ID
  hcn version · features · graph · events

KIND is networks, endpoints, namespaces, loadbalancers, sdnroutes, ports (reservations) or guestnetworkservices.`,
		Args: args(1, 3, "a verb, a kind and, for some verbs, an ID"),
		RunE: func(c *cobra.Command, args []string) error {
			const base = "/hcn/v2/"
			switch args[0] {
			case "version":
				return a.raw(c, http.MethodGet, base+"globals/version", nil)
			case "features", "graph", "events":
				return a.raw(c, http.MethodGet, base+args[0], nil)
			}
			if len(args) < 2 {
				return usage(c, fmt.Errorf("hcn %s needs a kind", args[0]))
			}
			kind, err := kindOf(args[1])
			if err != nil {
				return usage(c, err)
			}
			item := func(tail string) (string, error) {
				if len(args) < 3 {
					return "", usage(c, fmt.Errorf("hcn %s %s needs an ID", args[0], kind))
				}
				return base + kind + "/" + url.PathEscape(args[2]) + tail, nil
			}
			switch args[0] {
			case "list", "ls", "enumerate":
				path := base + kind
				if query != "" {
					path += "?" + url.Values{"filter": {query}}.Encode()
				}
				return a.raw(c, http.MethodGet, path, nil)
			case "get", "query", "inspect":
				path, err := item("")
				if err != nil {
					return err
				}
				return a.raw(c, http.MethodGet, path, nil)
			case "create":
				b, err := a.document(f.file)
				if err != nil {
					return err
				}
				return a.raw(c, http.MethodPost, base+kind, b)
			case "modify":
				path, err := item("/modify")
				if err != nil {
					return err
				}
				b, err := a.document(f.file)
				if err != nil {
					return err
				}
				return a.raw(c, http.MethodPost, path, b)
			case "delete", "rm":
				path, err := item("")
				if err != nil {
					return err
				}
				return a.raw(c, http.MethodDelete, path, nil)
			case "stats":
				path, err := item("/stats")
				if err != nil {
					return err
				}
				return a.raw(c, http.MethodGet, path, nil)
			}
			return usage(c, fmt.Errorf("hcn has no verb %q", args[0]))
		},
	}
	c.Flags().StringVarP(&f.file, "file", "f", "", "document; - is standard input")
	c.Flags().StringVar(&query, "query", "", "JSON object of members and their values")
	return c
}

func (a *app) hcsCmd() *cobra.Command {
	var f rawFlags
	var start, all bool
	var types string
	c := &cobra.Command{
		Use: "hcs VERB [ID]", Short: "raw HCS documents in and out",
		Long: `Raw HCS documents in and out.

  hcs list [--all]                   properties of every system
  hcs create ID [-f FILE] [--start]  the document comes from FILE or standard input
  hcs get ID [--types T,…]           properties
  hcs document ID                    the create document after defaults
  hcs start · shutdown · terminate · pause · resume · modify · delete ID
  hcs exit ID                        waits for the exit status
  hcs processes ID                   hcs exec ID [-f FILE] makes one
  hcs service · events
  hcs policy [-f FILE]               who may have which isolation; FILE replaces it`,
		Args: args(1, 2, "a verb and, for most verbs, an ID"),
		RunE: func(c *cobra.Command, args []string) error {
			const base = "/hcs/v2/"
			switch args[0] {
			case "list", "ls", "enumerate":
				path := base + "systems"
				if all {
					path += "?all=true"
				}
				return a.raw(c, http.MethodGet, path, nil)
			case "service":
				return a.raw(c, http.MethodGet, base+"service/properties", nil)
			case "events":
				return a.raw(c, http.MethodGet, base+"events", nil)
			case "policy":
				if f.file == "" {
					return a.raw(c, http.MethodGet, base+"policy", nil)
				}
				b, err := a.document(f.file)
				if err != nil {
					return err
				}
				return a.raw(c, http.MethodPut, base+"policy", b)
			}
			if len(args) < 2 {
				return usage(c, fmt.Errorf("hcs %s needs an ID", args[0]))
			}
			item := base + "systems/" + url.PathEscape(args[1])
			doc := func(method, path string, needed bool) error {
				b, err := a.document(f.file)
				if err != nil {
					return err
				}
				if needed && len(b) == 0 {
					return usage(c, errors.New("a document is needed: -f FILE, or standard input"))
				}
				return a.raw(c, method, path, b)
			}
			switch args[0] {
			case "create":
				if start {
					item += "?start=true"
				}
				return doc(http.MethodPost, item, true)
			case "get", "properties":
				if types != "" {
					item += "?" + url.Values{"types": {types}}.Encode()
				}
				return a.raw(c, http.MethodGet, item, nil)
			case "document":
				return a.raw(c, http.MethodGet, item+"/document", nil)
			case "start", "terminate", "resume", "crash":
				return a.raw(c, http.MethodPost, item+"/"+args[0], nil)
			case "shutdown", "pause", "save":
				return doc(http.MethodPost, item+"/"+args[0], false)
			case "modify":
				return doc(http.MethodPost, item+"/modify", true)
			case "exit", "wait":
				return a.raw(c, http.MethodGet, item+"/exit", nil)
			case "processes":
				return a.raw(c, http.MethodGet, item+"/processes", nil)
			case "exec":
				return doc(http.MethodPost, item+"/processes", true)
			case "delete", "rm":
				return a.raw(c, http.MethodDelete, item, nil)
			}
			return usage(c, fmt.Errorf("hcs has no verb %q", args[0]))
		},
	}
	fs := c.Flags()
	fs.StringVarP(&f.file, "file", "f", "", "document; - is standard input")
	fs.BoolVar(&start, "start", false, "start it too")
	fs.BoolVarP(&all, "all", "a", false, "stopped ones too")
	fs.StringVar(&types, "types", "", "parts of the properties, comma-separated")
	return c
}
