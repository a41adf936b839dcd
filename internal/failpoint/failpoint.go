// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package failpoint names the few places where a crash or a failure matters, so
// that tests can have one there. Without the build tag "failpoint" every Hit is
// nothing. With it, the environment variable GATEHOUSE_FAILPOINTS, or the file
// that GATEHOUSE_FAILPOINT_FILE names (read at each Hit, it wins), says what
// happens where:
//
//	name=crash            kill the process, as kill -9 does
//	name=error            Hit fails
//	name=sleep(200ms)     Hit waits
//	name=2*error          only the first two times
//	name=10%error         one time in ten, by chance; GATEHOUSE_FAILPOINT_SEED, a
//	                      number, makes it the same chance again
//
// separated by ";".
package failpoint

import "errors"

// Err is in every error that Hit makes.
var Err = errors.New("failpoint")
