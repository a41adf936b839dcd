#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The main job, visibly: a daemon under a temporary root, an image, two containers
# that reach each other by name, a published port answered from the host and from
# another machine (a network namespace plays it), a container that reaches that
# machine through NAT, and a daemon that is killed without anybody noticing.
# Everything it makes is gone when it ends, however it ends.
set -euo pipefail
cd "$(dirname "$0")/.."

gh=$PWD/bin/gatehouse
hello=$(ls "$PWD"/internal/hello/bin/hello-* | head -1)
root=$(mktemp -d /tmp/gatehouse-demo.XXXXXX)
export GATEHOUSE_ROOT=$root
port=18080
outside=gatehouse-demo-outside   # the namespace that plays a machine on the wire
host_ip=198.51.100.1             # TEST-NET-2 (RFC 5737): nobody's real address
outside_ip=198.51.100.2
daemon=
web_outside=
started=$(date +%s%N)
times=()

if [ -t 1 ]; then b=$'\e[1m' d=$'\e[2m' g=$'\e[32m' r=$'\e[31m' n=$'\e[0m'; else b= d= g= r= n=; fi
say() { printf '\n%s%s%s\n' "$b" "$*" "$n"; }

# run WHAT COMMAND...: shows the command as one would type it, its output, its time.
run() {
	local what=$1 t0 t1 out rc=0
	shift
	local shown="${*/#$gh/gatehouse}"
	shown=${shown//$hello/hello}
	printf '%s$ %s%s\n' "$d" "$shown" "$n"
	t0=$(date +%s%N)
	out=$("$@" 2>&1) || rc=$?
	t1=$(date +%s%N)
	[ -z "$out" ] || printf '%s\n' "$out" | sed 's/^/  /'
	if [ $rc -ne 0 ]; then
		printf '%sfailed: %s (exit %d)%s\n' "$r" "$what" $rc "$n" >&2
		[ -e "$root/daemon.log" ] && tail -20 "$root/daemon.log" >&2
		exit 1
	fi
	times+=("$(printf '%7.1f ms  %s' "$(((t1 - t0) / 100000))e-1" "$what")")
}

outside_run() { nsenter --net="/run/netns/$outside" "$@"; }

serve() {
	"$gh" serve >>"$root/daemon.log" 2>&1 &
	daemon=$!
	disown
	for _ in $(seq 200); do
		"$gh" version >/dev/null 2>&1 && "$gh" ps >/dev/null 2>&1 && return
		kill -0 $daemon 2>/dev/null || break
		sleep 0.05
	done
	echo "${r}the daemon did not come up:$n" >&2
	tail -20 "$root/daemon.log" >&2
	exit 1
}

cleanup() {
	rc=$?
	set +e
	[ -z "$web_outside" ] || kill "$web_outside" 2>/dev/null
	if [ -n "$daemon" ]; then
		kill -0 "$daemon" 2>/dev/null || { [ -e "$root/daemon.log" ] && "$gh" serve >>"$root/daemon.log" 2>&1 & daemon=$!; sleep 1; }
		for c in $("$gh" ps -a -o name 2>/dev/null); do "$gh" rm -f "$c" >/dev/null 2>&1; done
		for w in $("$gh" network ls -o name 2>/dev/null); do "$gh" network rm "$w" >/dev/null 2>&1; done
		kill "$daemon" 2>/dev/null
		for _ in $(seq 100); do kill -0 "$daemon" 2>/dev/null || break; sleep 0.05; done
		kill -9 "$daemon" 2>/dev/null
		"$gh" doctor --leaks --remove >/dev/null 2>&1
	fi
	ip netns del "$outside" 2>/dev/null
	ip link del ghdemo0 2>/dev/null
	left=$("$gh" doctor --leaks 2>&1) || { echo "${r}left behind:$n"; echo "$left"; rc=1; }
	rm -rf "$root"
	exit $rc
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say "What this host can do"
run "doctor" "$gh" doctor

say "A machine on the wire: $outside_ip, behind the host's $host_ip"
ip netns del "$outside" 2>/dev/null || true
ip netns add "$outside"
ip link add ghdemo0 type veth peer name eth0 netns "$outside"
ip addr add "$host_ip/24" dev ghdemo0
ip link set ghdemo0 up
ip -n "$outside" link set lo up
ip -n "$outside" addr add "$outside_ip/24" dev eth0
ip -n "$outside" link set eth0 up
nsenter --net="/run/netns/$outside" "$hello" serve >/dev/null 2>&1 &
web_outside=$!
disown

say "The daemon, under a root of its own"
t0=$(date +%s%N)
serve
times+=("$(printf '%7.1f ms  %s' "$((($(date +%s%N) - t0) / 100000))e-1" "daemon start: store, eBPF, network, image")")
run "image ls" "$gh" image ls

say "Two containers on the default NAT network"
run "run web, published on $port" "$gh" run -d --name web -p "$port:80" gatehouse/hello
run "run db" "$gh" run -d --name db gatehouse/hello
run "ps" "$gh" ps

say "They reach each other by name"
run "web -> db by name" "$gh" exec web /hello get http://db/
run "db -> web by name" "$gh" exec db /hello ping -c 1 web

say "The published port, from the host and from the machine outside"
run "host -> localhost:$port" "$hello" get "http://127.0.0.1:$port/"
run "host -> own address:$port" "$hello" get "http://$host_ip:$port/"
run "outside -> host:$port" outside_run "$hello" get "http://$host_ip:$port/"

say "A container reaches the machine outside; it sees the host's address (NAT)"
run "db -> outside through NAT" "$gh" exec db /hello get "http://$outside_ip/"

say "The daemon is killed; packets and containers do not notice"
kill -9 $daemon
sleep 0.2
run "outside -> host:$port, no daemon" outside_run "$hello" get "http://$host_ip:$port/" -n 200 -new
serve
run "ps after the restart" "$gh" ps

say "Network, switch, ports and endpoints"
run "network graph" "$gh" network graph

say "A container from start to exit"
run "run --rm" "$gh" run --rm gatehouse/hello id

say "Removing all of it"
run "rm web db" "$gh" rm -f web db
run "leaks" "$gh" doctor --leaks

say "Times"
printf '%s\n' "${times[@]}"
printf '%s%7.1f s in all%s\n' "$g" "$((($(date +%s%N) - started) / 100000000))e-1" "$n"
