// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// drip is a stream: a line at once, and then as asked.
func drip(ctx context.Context, q url.Values, w io.Writer) error {
	if q.Get("then") == "refuse" {
		return fmt.Errorf("no water: %w", errdefs.ErrNotFound)
	}
	if _, err := io.WriteString(w, "drop\n"); err != nil {
		return err
	}
	switch q.Get("then") {
	case "end":
		return nil
	case "break":
		return fmt.Errorf("the pipe\nbroke")
	}
	<-ctx.Done()
	return ctx.Err()
}

func TestStream(t *testing.T) {
	f := newFixture(t)
	if resp, body := f.do("GET", "/host/v1/drip?then=refuse", ""); resp.StatusCode != http.StatusNotFound || !strings.Contains(body, "no water") {
		t.Errorf("refused: %d %s", resp.StatusCode, body)
	}
	if resp, body := f.do("GET", "/host/v1/drip?then=end", ""); resp.StatusCode != http.StatusOK || body != "drop" || resp.Trailer.Get(endTrailer) != "" ||
		resp.Header.Get("Content-Type") != "text/plain" {
		t.Errorf("ended: %d %q %v", resp.StatusCode, body, resp.Trailer)
	}
	if resp, body := f.do("GET", "/host/v1/drip?then=break", ""); body != "drop" || resp.Trailer.Get(endTrailer) != "the pipe broke" {
		t.Errorf("broken: %q %v", body, resp.Trailer)
	}
	// What is written is there at once, and a daemon that stops ends the stream.
	resp, err := f.client.Get("http://g/host/v1/drip")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	if line, err := r.ReadString('\n'); err != nil || line != "drop\n" {
		t.Fatalf("%q, %v", line, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := f.s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 || resp.Trailer.Get(endTrailer) != "the daemon stops" {
		t.Errorf("%q, %v, %v", rest, err, resp.Trailer)
	}
}
