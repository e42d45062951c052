# shellcheck shell=bash
# What the scripts here share: installing clients, and starting and ending the servers under test. Source it; it sets shell options.

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/hermesd-clients # what was installed, kept for the next run
work=$(mktemp -d)                                             # logs and configurations, of this run
memory_mb=256
start_seconds=20
stop_seconds=15

server_pid=
addresses=() # of the replicas that run
trap 'stop_server >/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

die() {
	printf '%s\n' "$*" >&2
	exit 2
}

# use_binary PATH makes it the server under test.
use_binary() {
	[ -x "$1" ] || die "$1: no such program; 'make build' builds bin/hermesd"
	binary=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
}

# start_server REPLICAS starts a server (1) or a group (more) on ports that are free, and sets addresses. A port that is taken between
# our look and the server's is no failure: it tries others.
start_server() {
	local replicas=$1 attempt base i
	server_log=$work/server.log
	for attempt in 1 2 3 4 5; do
		base=$(free_ports $((2 * replicas)))
		if [ "$replicas" = 1 ]; then
			"$binary" -p "$base" -m $memory_mb </dev/null >"$server_log" 2>&1 &
		else
			"$binary" local --replicas "$replicas" --port "$base" -m $memory_mb </dev/null >"$server_log" 2>&1 &
		fi
		server_pid=$!
		addresses=()
		for ((i = 0; i < replicas; i++)); do
			addresses+=("127.0.0.1:$((base + i))")
		done
		if serves "$replicas"; then
			return 0
		fi
		stop_server >/dev/null || true
	done
	printf 'the server does not start:\n' >&2
	tail -n 20 "$server_log" >&2
	return 1
}

# serves waits until the server answers, and a group has said that it is ready.
serves() {
	local replicas=$1 deadline=$((SECONDS + start_seconds))
	until { [ "$replicas" = 1 ] || grep -qx ready "$server_log"; } && [ -n "$(stat_of "${addresses[0]}" pid)" ]; do
		if ! kill -0 "$server_pid" 2>/dev/null || [ $SECONDS -ge $deadline ]; then
			return 1
		fi
		sleep 0.05
	done
}

# free_ports N prints the first of N ports in a row on which nobody listens. They lie below those that the kernel gives to clients.
free_ports() {
	local n=$1 base port
	while :; do
		base=$((20000 + RANDOM % 12000))
		for ((port = base; port < base + n; port++)); do
			if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
				continue 2
			fi
		done
		echo "$base"
		return
	done
}

# stop_server ends the server by SIGTERM. It fails, and says why, if the server had ended before, does not end, or ends badly.
stop_server() {
	local pid=$server_pid status=0 deadline=$((SECONDS + stop_seconds))
	[ -n "$pid" ] || return 0
	server_pid=
	if ! kill -TERM "$pid" 2>/dev/null; then
		wait "$pid" || status=$?
		echo "the server has ended by itself, with status $status"
		return 1
	fi
	while kill -0 "$pid" 2>/dev/null; do
		if [ $SECONDS -ge $deadline ]; then
			kill -KILL "$pid"
			wait "$pid" || true
			echo "the server had to be killed: it did not end within $stop_seconds seconds of SIGTERM"
			return 1
		fi
		sleep 0.05
	done
	wait "$pid" || status=$?
	if [ $status != 0 ]; then
		echo "the server ended with status $status after SIGTERM"
		return 1
	fi
	if grep -nE 'panic|fatal error|DATA RACE' "$server_log"; then
		return 1
	fi
}

# stat_of ADDRESS NAME prints a counter of stats, or nothing if the server does not answer.
stat_of() {
	local host=${1%:*} port=${1##*:}
	(
		exec 3<>"/dev/tcp/$host/$port" || exit 0
		printf 'stats\r\nquit\r\n' >&3
		timeout 5 cat <&3 | tr -d '\r' | awk -v name="$2" '$1 == "STAT" && $2 == name { print $3 }'
	) 2>/dev/null || true
}

# need_debian COMMAND=PACKAGE... installs the Debian packages whose commands are missing.
need_debian() {
	local pair missing=()
	for pair in "$@"; do
		command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
	done
	[ ${#missing[@]} = 0 ] || install_debian "${missing[@]}"
}

# install_debian PACKAGE... tries a few times: mirrors fail now and then.
install_debian() {
	local attempt
	[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || die "install these first: $*"
	echo "installing $*"
	for attempt in 1 2 3; do
		if { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } \
			</dev/null >"$work/apt.log" 2>&1; then
			return 0
		fi
		sleep $((attempt * 5))
	done
	tail -n 20 "$work/apt.log" >&2
	die "apt-get does not install $*"
}

# installed NAME FILE COMMAND... makes the directory $cache/NAME-<hash of FILE> by COMMAND DIRECTORY, once, and prints it. What an
# interrupted run has left is made anew.
installed() {
	local name=$1 file=$2 dir attempt
	shift 2
	dir=$cache/$name-$(sha256sum "$file" | cut -c1-12)
	if [ ! -e "$dir/complete" ]; then
		for attempt in 1 2 3; do
			rm -rf "$dir"
			mkdir -p "$dir"
			if "$@" "$dir" </dev/null >"$work/install.log" 2>&1; then
				touch "$dir/complete"
				break
			fi
		done
		[ -e "$dir/complete" ] || {
			tail -n 20 "$work/install.log" >&2
			die "cannot install what $file lists"
		}
	fi
	echo "$dir"
}

# write_memcaslap_config FILE SETS GETS VALUE_SIZE: keys of 16 bytes, values of one size, sets to gets as given (they add up to 10).
write_memcaslap_config() {
	printf 'key\n16 16 1\nvalue\n%d %d 1\ncmd\n0 0.%d\n1 0.%d\n' "$4" "$4" "$2" "$3" >"$1"
}
