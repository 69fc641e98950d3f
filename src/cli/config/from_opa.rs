//! `doorward config from-opa`: a configuration of OPA, translated, with what has no counterpart.

use std::{fs, path::PathBuf};

use crate::{
    cli::{Exit, chain, complain, mention, print},
    config::opa::{self, Kind, Translation},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Settings that have no counterpart, or leave something to do, are named on standard error.

Exit codes: 0 translated wholly, 1 something has no counterpart or is left to do, 3 the file cannot be read

Example:
  doorward config from-opa opa.yaml > doorward.yaml && doorward config check --config doorward.yaml")]
pub(in crate::cli) struct Args {
    /// OPA's configuration file, YAML or JSON, as `opa run --config-file` reads it
    file: PathBuf,
    /// How to print the translation: as doorward.yaml, or as JSON with the findings beside it
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

pub(super) fn run(args: &Args) -> Exit {
    let text = match fs::read_to_string(&args.file) {
        Ok(text) => text,
        Err(error) => return invalid(args, format!("cannot be read: {error}")),
    };
    let translation = match opa::translate(&text) {
        Ok(translation) => translation,
        Err(error) => return invalid(args, chain(error)),
    };
    let printed = match args.output {
        Output::Text => {
            tell(&translation);
            print(translation.config.trim_end())
        }
        Output::Json => match serde_json::to_string_pretty(&translation) {
            Ok(text) => print(text),
            Err(error) => return invalid(args, error),
        },
    };
    match printed {
        Exit::Done if translation.is_whole() => Exit::Done,
        _ => Exit::Failed,
    }
}

fn tell(translation: &Translation) {
    for finding in &translation.findings {
        let kind = match finding.kind {
            Kind::Missing => "no counterpart",
            Kind::Manual => "to be done",
            Kind::Note => "note",
        };
        mention(format_args!("{kind}: `{}`: {}; {}", finding.setting, finding.reason, finding.remedy));
    }
}

fn invalid(args: &Args, text: impl std::fmt::Display) -> Exit {
    complain(format_args!("{}: {text}", args.file.display()));
    Exit::Invalid
}
