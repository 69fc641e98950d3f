//! Rego: read from disk or from what was fetched (`load`, `downloads`), refused where regorus would answer other than OPA or endanger the process (`check`),
//! compiled and evaluated (`engine`, with `builtins` made safe), and replaced while calls go on (`reload`). `input`
//! builds the document that is asked about, of what is `wanted`, and `decision` reads the answer. Only files of this
//! folder name regorus; nothing here knows Envoy.

pub mod bench;
mod builtins;
mod check;
pub mod decision;
mod documents;
pub mod downloads;
mod engine;
pub mod facts;
mod former;
pub mod input;
pub mod inspect;
mod library;
mod load;
pub mod measure;
mod mocks;
mod names;
#[cfg(test)]
mod oracle;
pub mod problem;
mod reload;
mod rewrite;
mod store;
pub mod testing;
mod tree;
mod wanted;

pub use self::{
    builtins::context::{Drawn, drawn_of},
    engine::{Failure, PolicySet},
    former::{Former, MAX_SETS},
    reload::{Host, PolicyStore, Reload},
};
