#!/usr/bin/env bash
# Everything that is tested on each change, from a fresh machine with Rust, Python 3, a C compiler and root for apt:
# installs the real peers, builds once, checks demo, benches, image and deployment files, and ends with the test
# runner's own lines. Long suites: tests/long.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

echo "== peers"
bash tests/peers.sh all

echo "== build"
cargo build --locked --bin doorward --tests --benches
DOORWARD_BIN=$PWD/target/debug/doorward
export DOORWARD_BIN REQUIRE_PEERS=1

echo "== deployment files"
bash tests/deploy.sh

echo "== image"
bash tests/image.sh

echo "== policies"
bash tests/policies.sh

echo "== OPA's own suite"
bash tests/conformance.sh

echo "== random policies and inputs against the real OPA"
DIFFERENTIAL_PAIRS=2000 DIFFERENTIAL_SEED=3 cargo test --locked --lib policy::oracle::differential -- --nocapture

for example in examples/*/run.sh; do
    [ "$example" = examples/shared/run.sh ] && continue
    echo "== $example"
    bash "$example"
done

echo "== benches, the quick form"
PROFILE=dev bash benches/run.sh --quick --json | python3 -c '
import json, sys
rows = json.load(sys.stdin)
keys = {"server", "policy", "transport", "in_flight", "cpu_us_per_check", "rps", "p50_us", "p99_us", "rss_mb"}
evaluations = [row for row in rows if "engine" in row]
calls = [row for row in rows if "server" in row]
assert calls and all(keys <= row.keys() for row in calls), rows
assert {row["server"] for row in calls} == {"floor", "doorward"}, rows
assert all(row["ns_per_evaluation"] > 0 and row["of_plain"] > 0 for row in evaluations), rows
policies = ["rbac10", "lookup1000", "glob50", "regex50"]
assert sorted((row["engine"], row["policy"]) for row in evaluations) == sorted(
    (engine, policy) for engine in ("doorward", "regorus") for policy in policies), rows
print(f"{len(rows)} rows")'

echo "== tests"
cargo test --locked --lib --test it
