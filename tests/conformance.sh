#!/usr/bin/env bash
# Runs OPA's own test cases through doorward's load path and compares the table of outcomes with tests/conformance.md.
#
#   bash tests/conformance.sh             fails when a case is wrong or the table is out of date
#   bash tests/conformance.sh --update    writes the table
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
    --update) export UPDATE=1 ;;
    '') ;;
    *)
        echo "usage: bash tests/conformance.sh [--update]" >&2
        exit 2
        ;;
esac

bash tests/peers.sh opa
CONFORMANCE=1 cargo test --locked --lib -- --exact --nocapture \
    policy::oracle::conformance::opas_own_cases_are_answered_as_by_opa_or_refused
