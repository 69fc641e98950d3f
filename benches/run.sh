#!/usr/bin/env bash
# Measures doorward against an allow-all server, side by side on this machine, and prints a Markdown table.
#   bash benches/run.sh [--json] [--quick] [--policy NAME]...
# --json prints a list of rows instead; --quick takes seconds and leaves Envoy out.
set -euo pipefail
cd "$(dirname "$0")/.."

quick=
for argument in "$@"; do
  [ "$argument" = --quick ] && quick=yes
done

# The paths come from cargo itself: a bench's file name carries a hash, and the target folder may be anywhere.
built=$(cargo build --profile "${PROFILE:-release}" --locked --bin doorward --bench floor --bench load --message-format json-render-diagnostics)
path() {
  printf '%s\n' "$built" | python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == sys.argv[1]:
        print(message["executable"])' "$1"
}

envoy=()
if [ -z "$quick" ]; then
  bash tests/peers.sh envoy >&2
  envoy=(--envoy "$(bash tests/peers.sh path envoy)")
fi
exec "$(path load)" --doorward "$(path doorward)" --floor "$(path floor)" "${envoy[@]}" "$@"
