#!/usr/bin/env bash
# The demo: a real Envoy, doorward beside it, and a handful of calls with what was decided about each and why.
#
#   bash examples/quickstart/run.sh        needs Rust and Python 3; the rest it gets and makes itself
#
# DOORWARD_BIN names a doorward that is already built. Everything is on 127.0.0.1 and in a folder of its own, and both
# are gone at the end, also after Ctrl-C. Exits 0 only if every call went as announced.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
work=
pids=()

say() { printf '%s\n' "$*"; }

# Ends what was started, in order, and what does not end by itself within 5 s the hard way.
clean_up() {
    local pid
    trap - EXIT INT TERM
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    for pid in "${pids[@]}"; do
        for _ in {1..50}; do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    [ -z "$work" ] || rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start NAME COMMAND ...: in the background, with its output in NAME.log.
start() {
    local name=$1
    shift
    "$@" >"$work/$name.log" 2>&1 &
    pids+=($!)
}

# until_true NAME SECONDS COMMAND ...: waits for a condition; shows what NAME has written if it does not come true.
until_true() {
    local name=$1 seconds=$2 end
    shift 2
    end=$((SECONDS + seconds))
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS > end)) || ! kill -0 "${pids[-1]}" 2>/dev/null; then
            say "$name did not become ready; the end of what it wrote:"
            tail -n 20 "$work/$name.log"
            exit 1
        fi
        sleep 0.05
    done
}

ready() {
    "$python" - "$1" "$2" <<'PYTHON'
import sys, urllib.request
urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}{sys.argv[2]}", timeout=1)
PYTHON
}

# Nothing is left behind beside the sources either.
export PYTHONDONTWRITEBYTECODE=1
bash "$root/tests/peers.sh" demo
python=$(bash "$root/tests/peers.sh" path python)
envoy=$(bash "$root/tests/peers.sh" path envoy)
collector=$(bash "$root/tests/peers.sh" path rotel)

if [ -n "${DOORWARD_BIN:-}" ]; then
    doorward=$DOORWARD_BIN
else
    say "Building doorward (only the first time takes minutes)"
    cargo build --release --locked --bin doorward --manifest-path "$root/Cargo.toml"
    doorward=${CARGO_TARGET_DIR:-$root/target}/release/doorward
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/doorward-demo.XXXXXX")
ports=$("$python" "$here/prepare.py" "$work")
declare -A port
while IFS='=' read -r name number; do
    port[$name]=$number
done <<<"$ports"

say "Starting the workload, an OTLP collector, doorward and Envoy in $work"
start upstream python3 "$here/upstream.py" "${port[upstream]}"
until_true upstream 10 ready "${port[upstream]}" /
start collector "$collector" start --exporter blackhole --debug-log traces --debug-log-verbosity detailed \
    --otlp-grpc-endpoint "127.0.0.1:${port[otlp]}" --otlp-http-endpoint "127.0.0.1:${port[otlp_http]}"
# Spans go out each 200 ms instead of each 5 s, for nobody to wait for the last scene.
OTEL_BSP_SCHEDULE_DELAY=200 start doorward "$doorward" serve --config "$work/doorward.yaml"
doorward_pid=${pids[-1]}
until_true doorward 10 ready "${port[operations]}" /readyz
# Without hot restart Envoy shares no memory with another Envoy on this machine, and leaves none behind.
start envoy "$envoy" -c "$work/envoy.yaml" --disable-hot-restart --concurrency 1 --log-level warning
until_true envoy 10 ready "${port[probe]}" /ready

# shellcheck disable=SC2086 # one argument for each line
"$python" "$here/calls.py" "$work" $ports "doorward_pid=$doorward_pid"
