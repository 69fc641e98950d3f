//! Rego: read from disk (`load`), refused where regorus would answer other than OPA or endanger the process (`check`),
//! compiled and evaluated (`engine`, with `builtins` made safe), and replaced while calls go on (`reload`). `input`
//! builds the document that is asked about, of what is `wanted`, and `decision` reads the answer. Only files of this
//! folder name regorus; nothing here knows Envoy.

mod builtins;
mod check;
pub mod decision;
mod engine;
pub mod input;
mod load;
mod names;
#[cfg(test)]
mod oracle;
mod problem;
mod reload;
mod rewrite;
pub mod testing;
mod tree;
mod wanted;

pub use self::{
    engine::PolicySet,
    reload::{PolicyStore, Reload},
};
