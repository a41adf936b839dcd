# SPDX-License-Identifier: Apache-2.0
# make help lists the targets.

export CGO_ENABLED = 0
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  = -s -w -X gatehouse.dev/gatehouse/internal/daemon.Version=$(VERSION)
# Kernel work needs root; without it the targets ask sudo.
SUDO     = $(if $(filter 0,$(shell id -u)),,sudo -E env "PATH=$$PATH")
ARCH     = $(shell $(GO) env GOARCH)
# Without root: the packages that never touch the kernel.
PKGS    ?= ./...
# What is tested once more with failpoints compiled in.
TORTURED = ./internal/failpoint ./internal/compartment ./internal/network

.PHONY: all build hello guest demo test unit race test-vm check generate generate-check fuzz differ torture bench e2e setup clean help
all: build

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

build: hello guest ## build bin/gatehouse, one static binary
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/gatehouse ./cmd/gatehouse

hello: ## build the program of the image gatehouse/hello, which the binary carries
	GOARCH=$(ARCH) $(GO) build -trimpath -ldflags '-s -w' -o internal/hello/bin/hello-$(ARCH) ./cmd/hello

guest: ## build the agent of utility VMs, which the binary carries, for GUESTS="amd64 arm64" (this architecture)
	for a in $(or $(GUESTS),$(ARCH)); do GOARCH=$$a $(GO) build -trimpath -ldflags '-s -w' -o internal/uvm/image/bin/guest-$$a ./cmd/guest || exit; done

demo: ## set up, build, and do the main job visibly (uses sudo where needed)
	@scripts/setup.sh run
	@$(MAKE) --no-print-directory build
	@$(SUDO) scripts/demo.sh

setup: ## install what tests and generators need on a fresh Debian host
	@scripts/setup.sh dev

test: setup build ## run all tests, as root
	$(SUDO) $(GO) test -timeout 30m -p 2 $(PKGS)
	$(SUDO) $(GO) test -timeout 10m -p 1 -tags failpoint -run 'TestHit|TestReapsAgain|TestCrash|TestTorture' $(TORTURED)

torture: hello ## random verbs against a real store and kernel, VERBS=10000 SEED=n: whole, killed, with a failing kernel
	$(SUDO) env GATEHOUSE_TORTURE_VERBS=$(or $(VERBS),10000) GATEHOUSE_TORTURE_SEED=$(or $(SEED),1) \
		$(GO) test -timeout 24h -count 1 -v -tags failpoint -run TestTorture ./internal/network

unit: hello ## run what needs no root
	$(GO) test -short $(PKGS)

race: hello ## the unit tests under the race detector
	CGO_ENABLED=1 $(GO) test -race -short $(PKGS)

e2e: build ## only the end-to-end tests, verbosely, as root
	$(SUDO) $(GO) test -timeout 30m -count 1 -v ./e2e

test-vm: build ## the kernel's tests on Debian 12's kernel in a VM, CGROUP=v2|v1|hybrid, VM="dir:regexp ..."
	@scripts/setup.sh vm
	$(SUDO) scripts/test-vm.sh $(foreach v,$(VM),'$(v)')

check: generate-check ## vet, format, static checks, architecture, generated files
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'run gofmt -w'; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	GOARCH=arm64 $(GO) build -o /dev/null ./cmd/gatehouse

generate: ## remake the eBPF objects, their Go types (needs clang 14), and docs/coverage.md
	$(GO) generate ./internal/vswitch/bpf
	$(GO) run ./e2e/coverage . > docs/coverage.md.new && mv docs/coverage.md.new docs/coverage.md

generate-check: ## fail when the committed eBPF objects are not what the sources give
	@scripts/generate-check.sh

fuzz: ## fuzz every parser, FUZZTIME each (default 30s)
	$(SUDO) scripts/fuzz.sh $(or $(FUZZTIME),30s)

differ: ## hold explain against the programs over PAIRS random pairs (default 10 million), SEED=n
	$(SUDO) env GATEHOUSE_EXPLAIN_PAIRS=$(or $(PAIRS),10000000) GATEHOUSE_EXPLAIN_SEED=$(or $(SEED),1) \
		$(GO) test -timeout 12h -count 1 -v -run TestDifferential ./internal/vswitch/explain

bench: build ## the ratios of docs/performance.md beside the peers, BENCH="-rounds 5 dataplane"
	@scripts/setup.sh bench
	$(SUDO) $(GO) run ./bench $(BENCH)

clean: ## remove what build made
	rm -rf bin internal/hello/bin/hello-* internal/uvm/image/bin/guest-*
