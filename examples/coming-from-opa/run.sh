#!/usr/bin/env bash
# A policy and a configuration written for opa-envoy-plugin, served by doorward: the configuration is translated, the
# policy is not touched, and the real OPA is asked about the same calls where it is installed.
#
#   bash examples/coming-from-opa/run.sh        needs Rust and Python 3; Envoy it gets itself
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

# until_true NAME COMMAND ...: waits for a condition; shows what NAME has written if it does not come true.
until_true() {
    local name=$1 end=$((SECONDS + 15))
    shift
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS > end)) || ! kill -0 "${pids[-1]}" 2>/dev/null; then
            say "$name did not become ready; the end of what it wrote:"
            tail -n 20 "$work/$name.log"
            exit 1
        fi
        sleep 0.05
    done
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }
ready() { python3 -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:$1/readyz', timeout=1)"; }

export PYTHONDONTWRITEBYTECODE=1
bash "$root/tests/peers.sh" envoy
envoy=$(bash "$root/tests/peers.sh" path envoy)
opa=$(bash "$root/tests/peers.sh" path opa 2>/dev/null || true)

if [ -n "${DOORWARD_BIN:-}" ]; then
    doorward=$DOORWARD_BIN
else
    say "Building doorward (only the first time takes minutes)"
    cargo build --release --locked --bin doorward --manifest-path "$root/Cargo.toml"
    doorward=${CARGO_TARGET_DIR:-$root/target}/release/doorward
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/doorward-from-opa.XXXXXX")
declare -A port
while IFS='=' read -r name number; do
    port[$name]=$number
done <<<"$(python3 "$here/prepare.py" "$work")"

say "The configuration that OPA has:"
grep -v '^#' "$work/opa.yaml" | sed 's/^/    /'
say "What doorward says while it translates it (exit status 1: something is left to do by hand):"
status=0
"$doorward" config from-opa "$work/opa.yaml" >"$work/doorward.yaml" 2>"$work/findings" || status=$?
sed 's/^/    /' "$work/findings"
[ "$status" -eq 1 ] || { say "expected exit status 1, got $status"; exit 1; }
say "The policy lies where the translation looks for it. The example needs free ports, and plain inputs for OPA to read:"
sed -i 's/^  sink: stdout$/  sink: stdout\n  mask: {off: true}/' "$work/doorward.yaml"
printf 'operations: {address: "127.0.0.1:%s"}\nlimits: {grace: 100ms}\n' "${port[operations]}" >>"$work/doorward.yaml"
grep -v '^ *#' "$work/doorward.yaml" | sed 's/^/    /'
"$doorward" config check --config "$work/doorward.yaml" >/dev/null

say "Starting the workload, doorward and Envoy in $work"
python3 "$here/upstream.py" "${port[upstream]}" >"$work/upstream.log" 2>&1 &
pids+=($!)
until_true upstream answers "${port[upstream]}"
"$doorward" serve --config "$work/doorward.yaml" >"$work/records.log" 2>"$work/doorward.log" &
pids+=($!)
until_true doorward ready "${port[operations]}"
# Without hot restart Envoy shares no memory with another Envoy on this machine, and leaves none behind.
"$envoy" -c "$work/envoy.yaml" --disable-hot-restart --concurrency 1 --log-level warning >"$work/envoy.log" 2>&1 &
pids+=($!)
until_true envoy answers "${port[inbound]}"

python3 "$here/calls.py" "$work" "${port[inbound]}" ${opa:+"$opa"}
