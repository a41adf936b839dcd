module gatehouse.dev/gatehouse

go 1.26.8

require (
	github.com/BurntSushi/toml v1.6.0 // config file
	github.com/Microsoft/go-winio v0.6.4 // guid.GUID, part of the hcn API
	github.com/cilium/ebpf v0.22.0 // the data plane
	github.com/containerd/errdefs v1.0.0 // error classes that Docker and containerd share
	github.com/cyphar/filepath-securejoin v0.7.0 // paths inside an untrusted root
	github.com/docker/go-units v0.5.0 // sizes as people write them
	github.com/google/go-cmp v0.7.0 // tests
	github.com/google/go-containerregistry v0.22.1 // registries, OCI layouts, docker archives
	github.com/google/nftables v0.3.0 // redirects inside a namespace
	github.com/google/uuid v1.6.0 // identifiers
	github.com/hashicorp/yamux v0.1.2 // streams over one connection to a guest
	github.com/insomniacslk/dhcp v0.0.0-20260901064844-234b97448fae // DHCP messages
	github.com/klauspost/compress v1.20.3 // zstd layers
	github.com/mdlayher/netlink v1.7.3-0.20250113171957-fbb4dce95f42 // buffers of nftables' socket
	github.com/miekg/dns v1.1.73 // the embedded resolver
	github.com/moby/profiles/seccomp v0.2.3 // Docker's default profile
	github.com/moby/sys/user v0.5.0 // passwd and group files
	github.com/opencontainers/go-digest v1.0.0 // content digests
	github.com/opencontainers/image-spec v1.1.1 // image documents
	github.com/opencontainers/runtime-spec v1.3.0 // OCI bundles
	github.com/prometheus/client_golang v1.25.0 // tests: metrics as Prometheus reads them
	github.com/rogpeppe/go-internal v1.16.0 // testscript
	github.com/spf13/cobra v1.10.2 // the command line
	github.com/spf13/pflag v1.0.10 // the command line
	github.com/vishvananda/netlink v1.3.1 // devices and addresses
	github.com/vishvananda/netns v0.0.5 // namespaces
	go.etcd.io/bbolt v1.5.0 // the store
	golang.org/x/net v0.62.0 // limits on listeners
	golang.org/x/sync v0.24.0 // bounded work
	golang.org/x/sys v0.49.0 // system calls
	golang.org/x/term v0.47.0 // terminals
	golang.org/x/tools v0.51.0 // txtar golden files
)

require github.com/pierrec/lz4/v4 v4.1.33

require (
	cyphar.com/go-pathrs v0.2.5 // indirect
	github.com/docker/cli v29.7.2+incompatible // indirect
	github.com/docker/docker-credential-helpers v0.9.3 // indirect
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/josharian/native v1.1.0 // indirect
	github.com/mdlayher/socket v0.6.0 // indirect
	github.com/munnerz/goautoneg v0.0.0-20191010083416-a7dc8b61c822 // indirect
	github.com/prometheus/client_model v0.6.3 // indirect
	github.com/prometheus/common v0.72.0 // indirect
	github.com/sirupsen/logrus v1.10.2 // indirect
	github.com/u-root/uio v0.0.0-20230220225925-ffce2a382923 // indirect
	golang.org/x/exp/typeparams v0.0.0-20260209203927-2842357ff358 // indirect
	golang.org/x/mod v0.41.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
	honnef.co/go/tools v0.8.2 // indirect
)

tool (
	github.com/cilium/ebpf/cmd/bpf2go
	honnef.co/go/tools/cmd/staticcheck
)
