# What the run.sh of every example has in common, sourced by them after `here` is set to their folder: programs are fetched
# and built, what is started is ended, and what is written is removed, also after Ctrl-C. Everything is on 127.0.0.1 and
# in one temporary folder.
# shellcheck shell=bash
set -euo pipefail

root=$(cd "$here/../.." && pwd)
shared=$root/examples/shared
work=
pids=()
declare -A pid port

# Nothing is left behind beside the sources either.
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$shared

say() { printf '%s\n' "$*"; }

# Ends what was started, in order, and what does not end by itself within 5 s the hard way.
clean_up() {
    local one
    trap - EXIT INT TERM
    for one in "${pids[@]}"; do
        kill "$one" 2>/dev/null || true
    done
    for one in "${pids[@]}"; do
        for _ in {1..50}; do
            kill -0 "$one" 2>/dev/null || break
            sleep 0.1
        done
        kill -9 "$one" 2>/dev/null || true
        wait "$one" 2>/dev/null || true
    done
    [ -z "$work" ] || rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# prepare GROUP: gets the peers of that group and doorward, lays out the example's folder in $work by its prepare.py, and
# tells the ports that it took, as `name=port` lines in $ports and in port[name].
prepare() {
    local name number
    bash "$root/tests/peers.sh" "$1"
    python=$(bash "$root/tests/peers.sh" path python)
    envoy=$(bash "$root/tests/peers.sh" path envoy)
    if [ -n "${DOORWARD_BIN:-}" ]; then
        doorward=$(realpath "$DOORWARD_BIN")
    else
        say "Building doorward (only the first time takes minutes)"
        cargo build --release --locked --bin doorward --manifest-path "$root/Cargo.toml"
        doorward=${CARGO_TARGET_DIR:-$root/target}/release/doorward
    fi
    work=$(mktemp -d "${TMPDIR:-/tmp}/doorward-example.XXXXXX")
    ports=$("$python" "$here/prepare.py" "$work")
    while IFS='=' read -r name number; do
        port[$name]=$number
    done <<<"$ports"
}

# start NAME COMMAND ...: in the background, with its output in NAME.log.
start() {
    local name=$1
    shift
    "$@" >"$work/$name.log" 2>&1 &
    pid[$name]=$!
    pids+=($!)
}

# Without hot restart Envoy shares no memory with another Envoy on this machine, and leaves none behind.
start_envoy() { start "$1" "$envoy" -c "$2" --disable-hot-restart --concurrency 1 --log-level warning; }

# until_true NAME COMMAND ...: waits for a condition; shows what NAME has written if it does not come true.
until_true() {
    local name=$1 end=$((SECONDS + 15))
    shift
    until ("$@") >/dev/null 2>&1; do
        if ((SECONDS > end)) || ! kill -0 "${pid[$name]}" 2>/dev/null; then
            say "$name did not become ready; the end of what it wrote:"
            tail -n 20 "$work/$name.log"
            exit 1
        fi
        sleep 0.02
    done
}

# Whether somebody listens on port $1.
answers() { exec 3<>"/dev/tcp/127.0.0.1/$1"; }

# Whether port $1 answers a GET of path $2 with 200.
ready() {
    answers "$1"
    printf 'GET %s HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n' "$2" >&3
    read -r -t 1 _ status _ <&3 && [ "$status" = 200 ]
}
