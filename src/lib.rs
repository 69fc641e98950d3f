//! Doorward decides every call a machine makes, at the moment it makes it. A call comes in as a CheckRequest
//! (`envoy`), is decoded to a `request`, gets its peer from `identity`, becomes an input document, is decided by
//! `policy`, leaves a `record`, and goes back as a CheckResponse. `authorizer` is that flow: read it first.
//!
//! The modules stand in layers, top to bottom: a module uses only what is below it, and modules of one layer do not
//! know each other. `tests/it/tidy.rs` enforces it, reading this file.

pub mod cli;

mod app;

mod control;
mod envoy;

mod listener;

mod wiring;

mod authorizer;

mod alert;

mod record;

mod policy;

mod context;

mod inventory;
mod risk;
mod stream;

mod grant;
mod revocation;
mod session;
mod workload;

mod action;

mod identity;

mod state;

mod telemetry;

mod tls;

mod trust;

mod clock;
mod config;
mod json;
mod readiness;
mod request;
mod segments;

mod verdict;

/// For `benches/evaluate.rs`, and for nobody else.
#[doc(hidden)]
pub use policy::measure::Measured;
