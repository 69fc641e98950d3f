//! How Envoy is wired to doorward: the configuration that makes our promises true (`generate`), and what in another one
//! breaks them (`lint`). Plain YAML and JSON: nothing here knows Envoy's protobuf types, and a field that is not known
//! is nobody's mistake. What a decision needs of Envoy at run time is `envoy`'s.

mod document;
mod field;
pub mod generate;
pub mod lint;
mod scene;

pub use self::document::Document;
