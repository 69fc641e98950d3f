#!/usr/bin/env bash
# The demo: a real Envoy, doorward beside it, and a handful of calls with what was decided about each and why.
#
#   bash examples/quickstart/run.sh        needs Rust and Python 3; the rest it gets and makes itself
#
# DOORWARD_BIN names a doorward that is already built. Everything is on 127.0.0.1 and in a folder of its own, and both
# are gone at the end, also after Ctrl-C. Exits 0 only if every call went as announced.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../shared/run.sh
. "$here/../shared/run.sh"
prepare demo

say "Starting the workload, an OTLP collector, doorward and Envoy in $work"
start upstream "$python" "$shared/upstream.py" "${port[upstream]}"
collector=$(bash "$root/tests/peers.sh" path rotel)
start collector "$collector" start --exporter blackhole --debug-log traces --debug-log-verbosity detailed \
    --otlp-grpc-endpoint "127.0.0.1:${port[otlp]}" --otlp-http-endpoint "127.0.0.1:${port[otlp_http]}"
# Spans go out each 200 ms instead of each 5 s, for nobody to wait for the last scene.
OTEL_BSP_SCHEDULE_DELAY=200 start doorward "$doorward" serve --config "$work/doorward.yaml"
start_envoy envoy "$work/envoy.yaml"
until_true upstream answers "${port[upstream]}"
until_true doorward ready "${port[operations]}" /readyz
until_true envoy ready "${port[probe]}" /ready

# shellcheck disable=SC2086 # one argument for each line
"$python" "$here/calls.py" "$work" $ports "doorward_pid=${pid[doorward]}"
