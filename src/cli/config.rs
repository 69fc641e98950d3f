//! `doorward config`: what a configuration file comes to, whether it can be used, which keys there are, and
//! what a configuration of OPA is translated to.

mod from_opa;

use std::path::PathBuf;

use super::{Exit, complain, print};
use crate::config::{Config, load};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Print the JSON Schema of the configuration file, for editors and checks
    Schema,
    /// Print the effective configuration: defaults filled in, paths resolved, no secret in it
    Show(File),
    /// Say whether the file can be used, and where it cannot
    Check(File),
    /// Translate a configuration of OPA with opa-envoy-plugin
    FromOpa(from_opa::Args),
}

#[derive(Debug, clap::Args)]
pub(super) struct File {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Output::Yaml)]
    output: Output,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Output {
    Yaml,
    Json,
}

pub(super) fn run(command: &Command) -> Exit {
    match command {
        Command::Schema => match serde_json::to_string_pretty(&schemars::schema_for!(Config)) {
            Ok(schema) => print(schema),
            Err(error) => failed(error),
        },
        Command::Show(file) => match load(&file.config) {
            Ok(config) => show(&config, file.output),
            Err(error) => invalid(error),
        },
        Command::Check(file) => match load(&file.config) {
            Ok(_) => print(format_args!("{}: can be used", file.config.display())),
            Err(error) => invalid(error),
        },
        Command::FromOpa(args) => from_opa::run(args),
    }
}

fn show(config: &Config, output: Output) -> Exit {
    match output {
        Output::Yaml => match serde_saphyr::to_string(config) {
            Ok(text) => print(text.trim_end()),
            Err(error) => failed(error),
        },
        Output::Json => match serde_json::to_string_pretty(config) {
            Ok(text) => print(text),
            Err(error) => failed(error),
        },
    }
}

fn failed(error: impl std::fmt::Display) -> Exit {
    complain(error);
    Exit::Failed
}

fn invalid(error: crate::config::ConfigError) -> Exit {
    complain(super::chain(error));
    Exit::Invalid
}
