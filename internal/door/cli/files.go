// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/images"
)

func (a *app) exportCmd() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "export [-o FILE] NAME", Short: "write a container's files as an archive", Args: args(1, 1, "one name"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.archive(c, output, func(w io.Writer) error { return a.hcs().Export(c.Context(), args[0], w) })
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "file (default: standard output)")
	return c
}

func (a *app) commitCmd() *cobra.Command {
	var o hcs.CommitOptions
	var pause bool
	c := &cobra.Command{
		Use: "commit [-m MESSAGE] [-c CHANGE]… NAME [IMAGE]", Short: "make an image of a container and what it changed",
		Args: args(1, 2, "a container and, maybe, a name for the image"),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				o.Name = args[1]
			}
			o.NoPause = !pause
			out, err := a.hcs().Commit(c.Context(), args[0], o)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, out.Image)
			return nil
		},
	}
	c.Flags().StringVarP(&o.Message, "message", "m", "", "for the image's history")
	c.Flags().StringVarP(&o.Author, "author", "a", "", "who made it")
	c.Flags().StringArrayVarP(&o.Changes, "change", "c", nil, `instruction for the image, for example 'CMD ["/bin/httpd"]'`)
	c.Flags().BoolVarP(&pause, "pause", "p", true, "let the container stand still meanwhile")
	return c
}

func (a *app) importCmd() *cobra.Command {
	var req images.ImportRequest
	c := &cobra.Command{
		Use: "import [-m MESSAGE] [-c CHANGE]… FILE|URL|- [IMAGE]", Short: "make an image of an archive of files",
		Args: args(1, 2, "an archive and, maybe, a name for the image"),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				req.Name = args[1]
			}
			in, from, err := a.archiveIn(c, args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			req.From = from
			p := a.progress()
			img, err := a.images().Import(c.Context(), req, in, p.line)
			p.done()
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, img.ID)
			return nil
		},
	}
	c.Flags().StringVarP(&req.Message, "message", "m", "", "for the image's history")
	c.Flags().StringVar(&req.Platform, "platform", "", "os/arch[/variant] of the files (default: the host's)")
	c.Flags().StringArrayVarP(&req.Changes, "change", "c", nil, `instruction for the image, for example 'CMD ["/bin/httpd"]'`)
	return c
}

// archiveIn opens a file, standard input, or what a web server has.
func (a *app) archiveIn(c *cobra.Command, name string) (io.ReadCloser, string, error) {
	switch {
	case name == "-":
		if term.IsTerminal(int(a.in.Fd())) {
			return nil, "", usage(c, errors.New("no archive on standard input"))
		}
		return io.NopCloser(a.in), "-", nil
	case strings.HasPrefix(name, "http://"), strings.HasPrefix(name, "https://"):
		body, err := get(c.Context(), name)
		return body, name, err
	}
	f, err := os.Open(name)
	return f, name, err
}

func get(ctx context.Context, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("%s: the server answers %s", url, resp.Status)
	}
	return resp.Body, nil
}
