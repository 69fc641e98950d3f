#!/usr/bin/env bash
# A policy and a configuration written for opa-envoy-plugin, served by doorward: the configuration is translated, the
# policy is not touched, and the real OPA is asked about the same calls where it is installed.
#
#   bash examples/coming-from-opa/run.sh        needs Rust and Python 3; Envoy it gets itself
#
# DOORWARD_BIN names a doorward that is already built. Everything is on 127.0.0.1 and in a folder of its own, and both
# are gone at the end, also after Ctrl-C. Exits 0 only if every call went as announced.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../shared/run.sh
. "$here/../shared/run.sh"
prepare envoy
opa=$(bash "$root/tests/peers.sh" path opa 2>/dev/null || true)

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
start upstream "$python" "$shared/upstream.py" "${port[upstream]}"
start doorward "$doorward" serve --config "$work/doorward.yaml"
start_envoy envoy "$work/envoy.yaml"
until_true upstream answers "${port[upstream]}"
until_true doorward ready "${port[operations]}" /readyz
until_true envoy answers "${port[inbound]}"

# shellcheck disable=SC2086 # one argument for each line
OPA=$opa "$python" "$here/calls.py" "$work" $ports
