#!/usr/bin/env bash
# Measures doorward against an allow-all server, and its evaluation against plain regorus and `opa bench`, side by side
# on this machine, and prints Markdown tables.
#   bash benches/run.sh [--evaluate] [--json] [--quick] [--policy NAME]... [--compare NAME]...
# --compare takes two doorwards that differ in one thing instead: credentials, documents, entries, workloads, sessions,
# control, streams.
# --evaluate leaves the servers out; --json prints a list of rows instead; --quick takes seconds and leaves Envoy and opa
# out.
set -euo pipefail
cd "$(dirname "$0")/.."

quick=
json=
servers=yes
comparing=
arguments=()
for argument in "$@"; do
  case $argument in
    --evaluate) servers= ;;
    --compare) comparing=yes && arguments+=("$argument") ;;
    *) arguments+=("$argument") ;;
  esac
  [ "$argument" = --quick ] && quick=yes
  [ "$argument" = --json ] && json=yes
done

# The paths come from cargo itself: a bench's file name carries a hash, and the target folder may be anywhere.
built=$(cargo build --profile "${PROFILE:-release}" --locked --bin doorward --bench evaluate --bench floor --bench load \
  --message-format json-render-diagnostics)
path() {
  printf '%s\n' "$built" | python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == sys.argv[1]:
        print(message["executable"])' "$1"
}

envoy=()
opa=()
if [ -z "$quick$comparing" ]; then
  if [ -n "$servers" ]; then
    bash tests/peers.sh envoy >&2
    envoy=(--envoy "$(bash tests/peers.sh path envoy)")
  fi
  bash tests/peers.sh opa >&2
  opa=(--opa "$(bash tests/peers.sh path opa)")
fi

# One list of rows, or one table after the other.
rows=$(mktemp -d)
trap 'rm -rf "$rows"' EXIT
[ -n "$comparing" ] || "$(path evaluate)" --run "${opa[@]}" "${arguments[@]}" >"$rows/1"
if [ -n "$servers" ]; then
  "$(path load)" --doorward "$(path doorward)" --floor "$(path floor)" "${envoy[@]}" "${arguments[@]}" >"$rows/2"
fi
if [ -n "$json" ]; then
  python3 -c '
import json, sys
print(json.dumps([row for name in sys.argv[1:] for row in json.load(open(name))], indent=2))' "$rows"/*
else
  awk 'FNR == 1 && NR > 1 { print "" } { print }' "$rows"/*
fi
