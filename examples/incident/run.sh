#!/usr/bin/env bash
# An agent is granted one refund and no more, goes wrong, and is revoked: its live stream is cut, its next call refused, and
# whoever has to know is told.
#
#   bash examples/incident/run.sh        needs Rust, Python 3 and Alertmanager (root, to install it); the rest it gets itself
#
# DOORWARD_BIN names a doorward that is already built. Everything is on 127.0.0.1 and in a folder of its own, and both
# are gone at the end, also after Ctrl-C. Exits 0 only if every step went as announced.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../shared/run.sh
. "$here/../shared/run.sh"
prepare incident

say "Starting the payments, Alertmanager, doorward and Envoy in $work"
"$doorward" gen envoy --listen "127.0.0.1:${port[inbound]}" --upstream "127.0.0.1:${port[upstream]}" --streams /events \
    --trust-domain shop.example --ca "$work/certs/ca.crt" --certificate "$work/certs/payments.crt" \
    --key "$work/certs/payments.key" --socket "$work/authz.sock" --admin "${port[admin]}" >"$work/envoy.yaml"
start upstream "$python" "$here/payments.py" "${port[upstream]}"
alertmanager=$(bash "$root/tests/peers.sh" path alertmanager)
start alertmanager "$alertmanager" --config.file="$work/alertmanager.yaml" --storage.path="$work/alertmanager" \
    --web.listen-address="127.0.0.1:${port[alertmanager]}" --cluster.listen-address=
start doorward "$doorward" serve --config "$work/doorward.yaml"
start_envoy envoy "$work/envoy.yaml"
until_true upstream answers "${port[upstream]}"
until_true alertmanager ready "${port[alertmanager]}" /-/ready
until_true doorward ready "${port[operations]}" /readyz
until_true envoy ready "${port[admin]}" /ready

# shellcheck disable=SC2086 # one argument for each line
DOORWARD=$doorward "$python" "$here/calls.py" "$work" $ports
