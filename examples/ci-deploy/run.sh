#!/usr/bin/env bash
# A CI job deploys, and may only from its protected branch: with the ID token that its CI system gives it, on the runner
# that the token is about.
#
#   bash examples/ci-deploy/run.sh        needs Rust and Python 3; the rest it gets and makes itself
#
# DOORWARD_BIN names a doorward that is already built. Everything is on 127.0.0.1 and in a folder of its own, and both
# are gone at the end, also after Ctrl-C. Exits 0 only if every call went as announced.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../shared/run.sh
. "$here/../shared/run.sh"
prepare demo

say "Starting the CI system's issuer, the service that deploys, doorward and Envoy in $work"
start issuer "$python" "$here/issuer.py" "${port[issuer]}"
start upstream "$python" "$shared/upstream.py" "${port[upstream]}"
# doorward asks for the issuer's keys at its start, and again only seconds later.
until_true issuer ready "${port[issuer]}" /jwks
start doorward "$doorward" serve --config "$work/doorward.yaml"
start_envoy envoy "$work/envoy.yaml"
until_true upstream answers "${port[upstream]}"
until_true doorward ready "${port[operations]}" /readyz
until_true envoy ready "${port[probe]}" /ready

# shellcheck disable=SC2086 # one argument for each line
"$python" "$here/calls.py" "$work" $ports
