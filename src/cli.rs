//! The command line: one file a command in `cli/`. Exit codes: 0 done (or allowed), 1 failed, 2 denied, 3 invalid
//! (a command line, configuration or policy that cannot be used).

mod bench;
mod check;
mod completion;
mod config;
mod control;
mod eval;
mod explain;
mod generate;
mod grant;
mod health;
mod inventory;
mod question;
mod revocations;
mod revoke;
mod serve;
mod session;
mod source;
mod status;
mod tail;
mod test;

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::{Parser, Subcommand, error::ErrorKind};

/// What a command ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failed,
    Denied,
    Invalid,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Denied => 2,
            Exit::Invalid => 3,
        })
    }
}

/// Decides every call a machine makes, at the moment it makes it.
#[derive(Debug, Parser)]
#[command(version, about, long_about = None, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  doorward serve --config doorward.yaml     serve Envoy
  doorward config show --config FILE        what the file comes to, defaults filled in
  doorward config schema                    every key and its form, as JSON Schema
  doorward config from-opa opa.yaml         a configuration of OPA, translated
  doorward check policy/                    find what is wrong with a policy
  doorward test policy/                     run the tests of a policy
  doorward eval --policy policy/ --path /   what would be decided, and why
  doorward gen envoy --upstream HOST:PORT   Envoy's configuration
  doorward health                           is the local doorward ready?
  doorward tail --decision deny             decisions as they are made
  doorward explain ID                       why one was made
  doorward session list                     what callers did lately
  doorward inventory --unowned              identities that nobody answers for
  doorward status                           how the local doorward is
  doorward revoke --spiffe-id ID --reason … refuse a workload from now on
  doorward grant approve ID                 permit for a time what somebody has asked for

Exit codes: 0 done, 1 failed, 2 denied, 3 invalid";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve Envoy until told to stop
    Serve(serve::Args),
    /// Show or check the configuration, or print its schema
    #[command(subcommand)]
    Config(config::Command),
    /// Print configuration of other programs: Envoy's
    #[command(subcommand)]
    Gen(generate::Command),
    /// Ask a running doorward whether it is ready
    Health(health::Args),
    /// Find what is wrong with a policy before it is served
    Check(check::Args),
    /// Ask a policy one question: the decision, and all that took part in it
    Eval(eval::Args),
    /// Measure what an evaluation costs
    Bench(bench::Args),
    /// Run the tests of a policy, as `opa test` does
    Test(test::Args),
    /// Follow decisions as they are made
    Tail(tail::Args),
    /// Tell why a decision was made
    Explain(explain::Args),
    /// List, show and end sessions: what callers did, one after the other
    #[command(subcommand)]
    Session(session::Command),
    /// Revoke what is no longer good: an identity, a certificate, a token, a session
    Revoke(Box<revoke::Args>),
    /// List what is revoked
    #[command(subcommand)]
    Revocations(revocations::Command),
    /// Permission for a time: asked for, approved by somebody else, over with its time, its uses or its task
    #[command(subcommand, after_help = grant::GRANT_EXAMPLES)]
    Grant(Box<grant::Command>),
    /// End a task: all its grants at once, and its sessions
    #[command(subcommand, after_help = grant::TASK_EXAMPLES)]
    Task(Box<grant::TaskCommand>),
    /// End a revocation before its time, which takes two people
    #[command(subcommand, after_help = grant::RESTORE_EXAMPLES)]
    Restore(Box<grant::RestoreCommand>),
    /// List the machine identities that were seen or are registered
    Inventory(Box<inventory::Args>),
    /// Tell how a running doorward is
    Status(status::Args),
    /// Print a completion script for a shell
    Completion(completion::Args),
}

/// How most commands print what they have found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Parses the process's arguments and runs the command.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Done.into(),
                _ => Exit::Invalid.into(),
            };
        }
    };
    let exit = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Config(command) => config::run(&command),
        Command::Gen(command) => generate::run(&command),
        Command::Health(args) => health::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Tail(args) => tail::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Session(command) => session::run(&command),
        Command::Revoke(args) => revoke::run(&args),
        Command::Revocations(command) => revocations::run(&command),
        Command::Grant(command) => grant::run(&command),
        Command::Task(command) => grant::task(&command),
        Command::Restore(command) => grant::restore(&command),
        Command::Inventory(args) => inventory::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Completion(args) => completion::run(&args),
    };
    exit.into()
}

/// Writes the answer of a command; a closed pipe is the reader's choice and no failure.
fn print(text: impl Display) -> Exit {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Exit::Failed,
        _ => Exit::Done,
    }
}

/// Tells a person what went wrong, in colour on a terminal only.
fn complain(text: impl Display) {
    let mut stderr = io::stderr().lock();
    let _ = match stderr.is_terminal() {
        true => writeln!(stderr, "\x1b[1;31merror:\x1b[0m {text}"),
        false => writeln!(stderr, "error: {text}"),
    };
}

/// Tells a person something beside the answer.
fn mention(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// An error with its causes, in one line.
fn chain(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}
