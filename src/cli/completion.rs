//! `doorward completion`: a script that teaches a shell our commands.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, Exit};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which shell
    shell: Shell,
}

pub(super) fn run(args: &Args) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "doorward", &mut script);
    super::print(String::from_utf8_lossy(&script).trim_end())
}
