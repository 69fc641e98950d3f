//! `doorward serve`: the process beside Envoy.

use std::path::PathBuf;

use super::{Exit, complain};
use crate::{app, config, listener::Occupied};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
SIGHUP reloads; so does a change of the files it names. SIGTERM drains and stops, a second one stops at once.

Example:
  doorward serve --config /etc/doorward/doorward.yaml")]
pub(super) struct Args {
    /// The configuration file; `doorward config schema` describes it
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Take the place of a doorward that still listens on the same Unix socket: it keeps the connections it has until
    /// it is stopped, so that a restart loses no call
    #[arg(long)]
    take_over: bool,
}

pub(super) fn run(args: &Args) -> Exit {
    let config = match config::load(&args.config) {
        Ok(config) => config,
        Err(error) => {
            complain(super::chain(error));
            return Exit::Invalid;
        }
    };
    let occupied = if args.take_over { Occupied::TakeOver } else { Occupied::Refuse };
    match app::run(&args.config, config, occupied) {
        Ok(()) => Exit::Done,
        Err(error) => {
            complain(format_args!("{error:#}"));
            Exit::Failed
        }
    }
}
