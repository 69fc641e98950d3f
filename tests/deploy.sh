#!/usr/bin/env bash
# Holds the files of deploy/ against the programs that will read them: Envoy, kustomize, the Kubernetes schemas, Alertmanager and, where
# DOORWARD_BIN names one, doorward.
#
#   bash tests/deploy.sh
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
peers=$root/tests/peers.sh
bash "$peers" all
envoy=$(bash "$peers" path envoy)
python=$(bash "$peers" path python)
work=$(mktemp -d "${TMPDIR:-/tmp}/doorward-deploy.XXXXXX")
trap 'rm -rf "$work"' EXIT

passed=0
# check WHAT COMMAND ...: shows the command's output only if it fails.
check() {
    local what=$1
    shift
    if ! "$@" >"$work/output" 2>&1; then
        cat "$work/output" >&2
        echo "deploy: FAILED: $what" >&2
        exit 1
    fi
    passed=$((passed + 1))
    echo "deploy: $what"
}

# Envoy opens the secrets that its configuration names, at their place in an image.
sed "s#/etc/envoy/#$root/deploy/envoy/#" "$root/deploy/envoy/envoy.yaml" >"$work/envoy.yaml"
check "Envoy accepts deploy/envoy/envoy.yaml" "$envoy" --mode validate -c "$work/envoy.yaml"

# The snippet has no listener of its own: it is put into the smallest configuration that has one.
"$python" - "$root/deploy/envoy/snippet.yaml" >"$work/snippet.json" <<'PYTHON'
import json, sys, yaml

snippet = yaml.safe_load(open(sys.argv[1]))
types = "type.googleapis.com/envoy.extensions.filters"
router = {"name": "router", "typed_config": {"@type": f"{types}.http.router.v3.Router"}}
manager = {
    "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
    "stat_prefix": "test",
    "route_config": {},
    "http_filters": [*snippet["http_filters"], router],
}
listener = {
    "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
}
json.dump({"static_resources": {"listeners": [listener], "clusters": snippet["clusters"]}}, sys.stdout)
PYTHON
check "Envoy accepts deploy/envoy/snippet.yaml" "$envoy" --mode validate -c "$work/snippet.json"

"$(bash "$peers" path kubectl)" kustomize "$root/deploy/kubernetes" >"$work/kubernetes.yaml"
check "deploy/kubernetes renders to valid resources" \
    "$(bash "$peers" path kubernetes-validate)" --strict "$work/kubernetes.yaml"

amtool=$(bash "$peers" path amtool)
routes=$root/deploy/alertmanager/alertmanager.yaml
check "Alertmanager accepts deploy/alertmanager/alertmanager.yaml" "$amtool" check-config "$routes"
# routed RECEIVERS LABEL=VALUE ...: where an alert goes.
routed() {
    local receivers=$1
    shift
    check "$* goes to $receivers" "$amtool" config routes test --config.file="$routes" --verify.receivers="$receivers" "$@"
}
routed security,payments-oncall \
    alertname=DoorwardCriticalDenial severity=critical owner=kim@example.org escalation=payments-oncall
routed security,support alertname=DoorwardRevocation severity=warning owner=support@example.org
routed support alertname=DoorwardOverdue severity=warning owner=support@example.org
routed security alertname=DoorwardUnregistered severity=warning
routed security alertname=DoorwardOverdue severity=warning owner=somebody@example.org

if [ -n "${DOORWARD_BIN:-}" ]; then
    for file in deploy/kubernetes/doorward.yaml examples/quickstart/doorward.yaml; do
        check "doorward can use $file" "$DOORWARD_BIN" config check --config "$root/$file"
    done
fi

echo "$passed passed, 0 failed"
