// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"gatehouse.dev/gatehouse/internal/hello"
)

// Builtin are the images that this binary carries, for Options.
func Builtin() map[string]func(arch string) (v1.Image, error) {
	return map[string]func(string) (v1.Image, error){hello.Name: hello.Image}
}
