// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"fmt"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"gatehouse.dev/gatehouse/internal/uvm/image"
)

// uvmCmd works on the catalogue of this root by itself: a daemon reads it afresh
// for each machine.
func (a *app) uvmCmd() *cobra.Command {
	c := &cobra.Command{Use: "uvm", Short: "build, list and remove images of utility VMs"}
	c.AddCommand(a.uvmBuild(), a.uvmLs(), a.uvmRm())
	return c
}

func (a *app) catalogue() (image.Catalogue, error) {
	i, err := a.instance()
	return image.Catalogue{Dir: i.UVMImages()}, err
}

func (a *app) uvmBuild() *cobra.Command {
	var s image.Source
	c := &cobra.Command{
		Use:   "build [NAME] [--package P | --deb FILE | --host-kernel | --kernel FILE --modules DIR]",
		Short: "make an image from a distribution's kernel",
		Long: "Makes a utility VM's image: kernel, modules, guest agent, tools. The kernel is Debian's for clouds, brought by apt,\n" +
			"unless a flag says otherwise. An image of that name is replaced; machines that run are not touched.",
		Args: args(0, 1, "at most one name"),
		RunE: func(c *cobra.Command, words []string) error {
			cat, err := a.catalogue()
			if err != nil {
				return err
			}
			name := image.DefaultName
			if len(words) > 0 {
				name = words[0]
			}
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			img, err := cat.Build(ctx, name, image.Options{Source: s, Progress: func(what string) { fmt.Fprintln(a.err, what) }})
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, img.Name)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&s.Architecture, "arch", "", "amd64 or arm64 (default: this host's)")
	f.StringVar(&s.Package, "package", "", "package of the distribution (default: linux-image-cloud-<arch>)")
	f.StringVar(&s.Deb, "deb", "", "file of a package")
	f.BoolVar(&s.Host, "host-kernel", false, "the kernel of this host, of /boot and /lib/modules")
	f.StringVar(&s.Kernel, "kernel", "", "file of a kernel, with --modules")
	f.StringVar(&s.Modules, "modules", "", "lib/modules/<version> of --kernel")
	return c
}

func (a *app) uvmLs() *cobra.Command {
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "list images", Args: args(0, 0, ""),
		RunE: func(*cobra.Command, []string) error {
			cat, err := a.catalogue()
			if err != nil {
				return err
			}
			all, wrong := cat.List()
			t := &table{head: []string{"NAME", "KERNEL", "ARCHITECTURE", "DIGEST", "FEATURES", "DIRECTORY"}, wide: 4}
			var names []string
			for _, i := range all {
				t.add(i.Name, i.KernelVersion, i.Architecture, short(i.Digest), strings.Join(i.Features, ","), i.Dir())
				names = append(names, i.Name)
			}
			if err := a.list(t, all, names); err != nil {
				return err
			}
			return wrong
		},
	}
	a.outputFlag(c.Flags())
	return c
}

func (a *app) uvmRm() *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME…", Short: "remove images", Args: args(1, -1, "names of images"),
		RunE: func(_ *cobra.Command, words []string) error {
			cat, err := a.catalogue()
			if err != nil {
				return err
			}
			for _, name := range words {
				if err := cat.Remove(name); err != nil {
					return err
				}
				fmt.Fprintln(a.out, name)
			}
			return nil
		},
	}
}
