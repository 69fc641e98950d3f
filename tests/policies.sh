#!/usr/bin/env bash
# Tests, checks and formats what is in policies/: with the real opa, which must find every line covered, and with
# doorward, which must agree. tests/run.sh calls it with DOORWARD_BIN set; by hand the debug build is taken.
set -euo pipefail
cd "$(dirname "$0")/.."

opa=$(bash tests/peers.sh path opa)
doorward=${DOORWARD_BIN:-target/debug/doorward}
fail() {
    printf 'policies: %s\n' "$*" >&2
    exit 1
}

unformatted=$("$opa" fmt --list policies)
[ -z "$unformatted" ] || fail "run \`opa fmt --write policies\`; it would change: $unformatted"
"$opa" check --strict policies
"$opa" test policies
"$opa" test --coverage --threshold 100 policies >/dev/null || fail "a line in policies/ is not covered: opa test --coverage policies"

# Each folder as an operator would load it: its data at the root. The library is built into doorward and not into opa.
folders=("policies/guard" "policies/control" "policies/default policies/documents" "policies/guard policies/default policies/documents")
for folder in policies/cookbook/*/; do
    folders+=("${folder%/}")
    lines=$(wc -l <"${folder}policy.rego")
    [ "$lines" -le 80 ] || fail "${folder}policy.rego has $lines lines; a recipe has 80 at most"
done

library() {
    # shellcheck disable=SC2086
    case " $1 " in *" policies/guard "*) ;; *) ! grep -rq 'data\.guard$' $1 || echo policies/guard ;; esac
}

for folder in "${folders[@]}"; do
    # shellcheck disable=SC2086 # The paths are split on purpose; none of ours has a space.
    "$opa" test $folder $(library "$folder") >/dev/null || fail "opa test $folder"
    "$doorward" test --coverage --threshold 100 $folder >/dev/null || fail "doorward test $folder"
    # shellcheck disable=SC2086
    "$doorward" check --strict $folder >/dev/null || fail "doorward check --strict $folder"
done
printf 'policies: %s folders agree\n' "${#folders[@]}"
