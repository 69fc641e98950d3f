#!/usr/bin/env bash
# Runs OPA's own suite of cases through doorward's way of loading and evaluating, and compares the table of what came of
# it with tests/conformance.md.
#   bash tests/conformance.sh [--update]     --update writes the table anew
#   OPA_CASE=text bash tests/conformance.sh  only cases with this in their name, each told
set -euo pipefail
cd "$(dirname "$0")/.."

[ "${1:-}" = --update ] && export UPDATE=1
OPA_CASES=$(bash tests/peers.sh path opa-cases)
export OPA_CASES
cargo test --locked --lib policy::oracle -- --nocapture
