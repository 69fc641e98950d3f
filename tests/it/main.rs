//! The integration tests: one binary, a module a feature. `real_*` modules need a real peer (Envoy, a collector); an
//! absent peer is a loud skip, and a failure when `REQUIRE_PEERS=1`, which `tests/run.sh` sets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stderr,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "clippy's allowances for tests do not reach the helpers of an integration test"
)]

mod harness;

mod attacks;
mod cases;
mod control;
mod control_attacks;
mod control_kills;
mod grants;
mod inventory;
mod neighbours;
mod process;
mod real_alerts;
mod real_clock;
mod real_envoy;
mod real_issuers;
mod real_opa_bundles;
mod real_opa_uploads;
mod real_streams;
mod real_telemetry;
mod real_tokens;
mod real_trust;
mod real_wiring;
mod revocations;
mod sessions;
mod shadow;
mod streams;
mod tidy;
mod tools;
mod wiring;
