// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"gatehouse.dev/gatehouse/images"
)

func (a *app) imageCmd() *cobra.Command {
	c := &cobra.Command{Use: "image", Aliases: []string{"images"}, Short: "pull, push, load, save, list and remove images"}
	c.AddCommand(a.imagePull(), a.imagePush(), a.imageLoad(), a.imageSave(), a.imageLs(), a.imageInspect(), a.imageRm(), a.imageTag(), a.imageSlim(), a.imageLogin(), a.imageLogout())
	return c
}

// registryFlags say how to reach a registry.
type registryFlags struct {
	user, password string
	passwordStdin  bool
	ca             string
	insecure       bool
	plain          bool
}

func (f *registryFlags) register(fs *pflag.FlagSet) {
	fs.StringVarP(&f.user, "username", "u", "", "user name at the registry")
	fs.StringVarP(&f.password, "password", "p", "", "password (better: --password-stdin)")
	fs.BoolVar(&f.passwordStdin, "password-stdin", false, "read the password from standard input")
	fs.StringVar(&f.ca, "tls-ca", "", "file of certificates to trust besides the system's")
	fs.BoolVar(&f.insecure, "tls-insecure", false, "do not verify the registry's certificate")
	fs.BoolVar(&f.plain, "plain-http", false, "no TLS at all")
}

func (f *registryFlags) registry(in io.Reader) (images.Registry, error) {
	r := images.Registry{Username: f.user, Password: f.password, Insecure: f.insecure, PlainHTTP: f.plain}
	if f.ca != "" {
		b, err := os.ReadFile(f.ca)
		if err != nil {
			return r, fmt.Errorf("--tls-ca: %w", err)
		}
		r.CA = string(b)
	}
	if f.passwordStdin {
		if f.user == "" {
			return r, errors.New("--password-stdin needs --username")
		}
		b, err := io.ReadAll(io.LimitReader(in, 64<<10))
		if err != nil {
			return r, fmt.Errorf("read password: %w", err)
		}
		r.Password = strings.TrimRight(string(b), "\r\n")
	}
	return r, nil
}

// pull brings an image with the defaults, as run does.
func (a *app) pull(ctx context.Context, ref string) error {
	p := a.progress()
	defer p.done()
	_, err := a.images().Pull(ctx, ref, images.PullOptions{}, p.line)
	return err
}

func (a *app) imagePull() *cobra.Command {
	var f registryFlags
	var platform string
	c := &cobra.Command{
		Use: "pull NAME", Short: "bring an image from its registry", Args: args(1, 1, "one image"),
		RunE: func(c *cobra.Command, args []string) error {
			reg, err := f.registry(a.in)
			if err != nil {
				return err
			}
			p := a.progress()
			img, err := a.images().Pull(c.Context(), args[0], images.PullOptions{Platform: platform, Registry: reg}, p.line)
			p.done()
			if err != nil {
				return err
			}
			a.printImages([]images.Image{img})
			return nil
		},
	}
	f.register(c.Flags())
	c.Flags().StringVar(&platform, "platform", "", "os/arch[/variant] (default: this host's)")
	return c
}

func (a *app) printImages(imgs []images.Image) {
	for _, i := range imgs {
		for _, n := range i.Names {
			fmt.Fprintln(a.out, images.Familiar(n))
		}
		if len(i.Names) == 0 {
			fmt.Fprintln(a.out, i.ID)
		}
	}
}

func (a *app) imagePush() *cobra.Command {
	var f registryFlags
	c := &cobra.Command{
		Use: "push NAME", Short: "send an image to the registry in its name", Args: args(1, 1, "one image"),
		RunE: func(c *cobra.Command, args []string) error {
			reg, err := f.registry(a.in)
			if err != nil {
				return err
			}
			p := a.progress()
			err = a.images().Push(c.Context(), args[0], images.PushOptions{Registry: reg}, p.line)
			p.done()
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, args[0])
			return nil
		},
	}
	f.register(c.Flags())
	return c
}

func (a *app) imageLoad() *cobra.Command {
	var input string
	c := &cobra.Command{
		Use: "load [-i FILE|DIRECTORY]", Short: "take in images of an archive or an OCI layout", Args: args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			p := a.progress()
			var imgs []images.Image
			var err error
			if input == "" || input == "-" {
				if term.IsTerminal(int(a.in.Fd())) {
					return usage(c, errors.New("no archive on standard input; name one with -i"))
				}
				imgs, err = a.images().Load(c.Context(), a.in, p.line)
			} else {
				imgs, err = a.images().LoadPath(c.Context(), input, p.line)
			}
			p.done()
			if err != nil {
				return err
			}
			a.printImages(imgs)
			return nil
		},
	}
	c.Flags().StringVarP(&input, "input", "i", "", "archive or directory (default: standard input)")
	return c
}

func (a *app) imageSave() *cobra.Command {
	var output, format string
	c := &cobra.Command{
		Use: "save [-o FILE] NAME…", Short: "write images as an archive", Args: args(1, -1, "one image or more"),
		RunE: func(c *cobra.Command, args []string) error {
			switch format {
			case "oci", "docker":
			default:
				return usage(c, fmt.Errorf("--format %q: oci or docker", format))
			}
			return a.archive(c, output, func(w io.Writer) error { return a.images().Save(c.Context(), args, w, format) })
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "file (default: standard output)")
	c.Flags().StringVar(&format, "format", "oci", "oci or docker")
	return c
}

// archive lets write fill a file, or standard output. A half archive is no archive:
// the file's name appears when it is whole.
func (a *app) archive(c *cobra.Command, output string, write func(io.Writer) error) error {
	if output == "" || output == "-" {
		if isTerminal(a.out) {
			return usage(c, errors.New("an archive is nothing for a terminal; name a file with -o"))
		}
		return write(a.out)
	}
	tmp, err := os.CreateTemp(dirOf(output), "."+c.Name()+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	w := bufio.NewWriterSize(tmp, 1<<20)
	if err := errors.Join(write(w), w.Flush(), tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), output)
}

func dirOf(p string) string {
	if i := strings.LastIndexByte(p, '/'); i > 0 {
		return p[:i]
	} else if i == 0 {
		return "/"
	}
	return "."
}

func (a *app) imageLs() *cobra.Command {
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "list images", Args: args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			imgs, err := a.images().List(c.Context())
			if err != nil {
				return err
			}
			t, names := imageTable(imgs, time.Now())
			return a.list(t, imgs, names)
		},
	}
	a.outputFlag(c.Flags())
	return c
}

func imageTable(imgs []images.Image, now time.Time) (*table, []string) {
	t := &table{head: []string{"NAME", "ID", "CREATED", "SIZE", "PLATFORM", "LAYERS", "USED BY", "DIGEST"}, wide: 4}
	var names []string
	for _, i := range imgs {
		list := i.Names
		if len(list) == 0 {
			list = []string{""}
		}
		for _, n := range list {
			name := images.Familiar(n)
			if n == "" {
				name = "<none>"
				names = append(names, i.ID)
			} else {
				names = append(names, name)
			}
			t.add(name, images.ShortID(i.ID), age(now, i.Created), si(uint64(max(i.Size, 0))), i.OS+"/"+i.Architecture,
				fmt.Sprint(len(i.Layers)), fmt.Sprint(len(i.UsedBy)), i.Digest)
		}
	}
	return t, names
}

func (a *app) imageInspect() *cobra.Command {
	return &cobra.Command{
		Use: "inspect NAME…", Short: "show an image's document", Args: args(1, -1, "one image or more"),
		RunE: func(c *cobra.Command, args []string) error {
			var out []images.Image
			for _, n := range args {
				i, err := a.images().Inspect(c.Context(), n)
				if err != nil {
					return err
				}
				out = append(out, i)
			}
			return a.json(out)
		},
	}
}

func (a *app) imageRm() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "rm [-f] NAME…", Short: "remove images", Args: args(1, -1, "one image or more"),
		RunE: func(c *cobra.Command, args []string) error {
			var errs []error
			for _, n := range args {
				r, err := a.images().Remove(c.Context(), n, force)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				for _, u := range r.Untagged {
					fmt.Fprintln(a.out, "untagged", images.Familiar(u))
				}
				for _, d := range r.Deleted {
					fmt.Fprintln(a.out, "deleted", d)
				}
			}
			return errors.Join(errs...)
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "all names of it")
	return c
}

func (a *app) imageTag() *cobra.Command {
	return &cobra.Command{
		Use: "tag NAME NEW", Short: "give an image one more name", Args: args(2, 2, "an image and its new name"),
		RunE: func(c *cobra.Command, args []string) error {
			_, err := a.images().Tag(c.Context(), args[0], args[1])
			return err
		},
	}
}

func (a *app) imageLogin() *cobra.Command {
	var f registryFlags
	c := &cobra.Command{
		Use: "login [REGISTRY]", Short: "check and keep credentials of a registry", Args: args(0, 1, "one registry"),
		RunE: func(c *cobra.Command, args []string) error {
			server := images.DefaultDomain
			if len(args) > 0 {
				server = args[0]
			}
			in := bufio.NewReader(a.in)
			onTerminal := term.IsTerminal(int(a.in.Fd()))
			if f.user == "" {
				if !onTerminal {
					return usage(c, errors.New("--username is needed where nobody can be asked"))
				}
				fmt.Fprintf(a.err, "User name at %s: ", server)
				s, err := in.ReadString('\n')
				if err != nil {
					return fmt.Errorf("read user name: %w", err)
				}
				f.user = strings.TrimSpace(s)
			}
			if f.password == "" && !f.passwordStdin {
				if !onTerminal {
					return usage(c, errors.New("--password-stdin is needed where nobody can be asked"))
				}
				fmt.Fprint(a.err, "Password: ")
				b, err := term.ReadPassword(int(a.in.Fd()))
				fmt.Fprintln(a.err)
				if err != nil {
					return fmt.Errorf("read password: %w", err)
				}
				f.password = string(b)
			}
			reg, err := f.registry(in)
			if err != nil {
				return err
			}
			file, err := images.DefaultAuthFile()
			if err != nil {
				return err
			}
			if err := a.images().Login(c.Context(), server, reg, file); err != nil {
				return err
			}
			fmt.Fprintf(a.err, "logged in to %s; credentials are in %s\n", server, file.Path)
			return nil
		},
	}
	f.register(c.Flags())
	return c
}

func (a *app) imageLogout() *cobra.Command {
	return &cobra.Command{
		Use: "logout [REGISTRY]", Short: "forget credentials of a registry", Args: args(0, 1, "one registry"),
		RunE: func(_ *cobra.Command, args []string) error {
			server := images.DefaultDomain
			if len(args) > 0 {
				server = args[0]
			}
			file, err := images.DefaultAuthFile()
			if err != nil {
				return err
			}
			return a.images().Logout(server, file)
		},
	}
}
