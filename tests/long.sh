#!/usr/bin/env bash
# What takes minutes and needs no run on each change: licences and duplicate versions of dependencies, and the property
# tests with many more cases.
set -euo pipefail
cd "$(dirname "$0")/.."

echo "== dependencies (cargo-deny)"
command -v cargo-deny > /dev/null || cargo install --locked --quiet cargo-deny
cargo deny --offline check licenses bans sources

echo "== properties, 20,000 cases each"
PROPTEST_CASES=20000 cargo test --locked --lib -- propert any_ d53_

echo "== races: 10,000 rounds each through the binary"
cargo build --locked --bin doorward
RACE_ROUNDS=10000 DOORWARD_BIN=$PWD/target/debug/doorward cargo test --locked --test it -- sessions::of_two_racing sessions::no_post

echo "== a million principals in the inventory"
cargo test --locked --lib -- --ignored a_million_principals --test-threads=1 --nocapture

echo "== 100 kills at a random moment"
KILL_ROUNDS=100 DOORWARD_BIN=$PWD/target/debug/doorward \
    cargo test --locked --test it -- control_kills::after_a_kill_at_any_moment --nocapture

echo "== 1,000 live streams of each kind are cut"
bash tests/peers.sh all
STREAM_CUTS=1000 REQUIRE_PEERS=1 DOORWARD_BIN=$PWD/target/debug/doorward \
    cargo test --locked --test it -- real_streams::chunked real_streams::websockets real_streams::grpc --nocapture

echo "== 200,000 random policies and inputs against the real OPA"
bash tests/peers.sh opa
DIFFERENTIAL_PAIRS=${DIFFERENTIAL_PAIRS:-200000} DIFFERENTIAL_SEED=${DIFFERENTIAL_SEED:-7} \
    cargo test --locked --lib policy::oracle::differential -- --nocapture
