#!/usr/bin/env bash
# A batch job may call within its hours and is refused outside of them, by its entry in the registry and nothing else.
#
#   bash examples/nightly-batch/run.sh        needs Rust and Python 3; the rest it gets and makes itself
#
# DOORWARD_BIN names a doorward that is already built. Everything is on 127.0.0.1 and in a folder of its own, and both
# are gone at the end, also after Ctrl-C. Exits 0 only if every call went as announced.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../shared/run.sh
. "$here/../shared/run.sh"
prepare demo

say "Starting the ledger, doorward and Envoy in $work"
start upstream "$python" "$shared/upstream.py" "${port[upstream]}"
start doorward "$doorward" serve --config "$work/doorward.yaml"
start_envoy envoy "$work/envoy.yaml"
until_true upstream answers "${port[upstream]}"
until_true doorward ready "${port[operations]}" /readyz
until_true envoy ready "${port[probe]}" /ready

# shellcheck disable=SC2086 # one argument for each line
DOORWARD=$doorward "$python" "$here/calls.py" "$work" $ports
