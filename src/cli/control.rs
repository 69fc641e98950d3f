//! What the commands that ask a running doorward share: where its own API is, how to reach it, and what a refusal
//! comes to.

use std::{borrow::Cow, error::Error as _, io, os::linux::net::SocketAddrExt as _, os::unix::net};

use chrono::DateTime;
use hyper_util::rt::TokioIo;
use prost_types::Timestamp;
use serde_json::Value;
use tokio::{net::UnixStream, runtime::Builder};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use super::{Exit, complain, print};
use crate::config::{self, Address};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Where the doorward to ask listens for operators (`control.address`)
    #[arg(long = "control", value_name = "ADDRESS", default_value_t = config::Control::default().address)]
    address: Address,
}

impl Args {
    /// Connects and does `work`; what goes wrong is told.
    pub(super) fn run(&self, work: impl AsyncFnOnce(Channel) -> Result<Exit, Status>) -> Exit {
        if matches!(self.address, Address::Tcp(_)) {
            complain("operators are listened for on Unix sockets only; write `--control unix:///path`");
            return Exit::Invalid;
        }
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                complain(format_args!("cannot start: {error}"));
                return Exit::Failed;
            }
        };
        runtime.block_on(async {
            let mut stream = match connect(&self.address) {
                Ok(stream) => Some(TokioIo::new(stream)),
                Err(error) => {
                    let place = &self.address;
                    complain(format_args!("cannot reach a doorward at `{place}`: {error}; has its configuration `control`?"));
                    return Exit::Failed;
                }
            };
            let only = tower::service_fn(move |_| {
                std::future::ready(stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
            });
            match Endpoint::from_static("http://doorward").connect_with_connector(only).await {
                Ok(channel) => work(channel).await.unwrap_or_else(|status| self.refused(&status)),
                Err(error) => self.hung_up(&super::chain(error)),
            }
        })
    }

    fn refused(&self, status: &Status) -> Exit {
        let told = inert(status.message());
        match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => {
                complain(told);
                Exit::Denied
            }
            Code::InvalidArgument => {
                complain(told);
                Exit::Invalid
            }
            _ if status.source().is_some() => self.hung_up(&told),
            _ => {
                complain(told);
                Exit::Failed
            }
        }
    }

    /// It does so with whom it does not know, without a word.
    fn hung_up(&self, why: &str) -> Exit {
        let place = &self.address;
        complain(format_args!("the doorward at `{place}` hung up ({why}); may this user ask it (`control.uids`)?"));
        Exit::Failed
    }
}

fn connect(address: &Address) -> io::Result<UnixStream> {
    let stream = match address {
        Address::Unix(path) => net::UnixStream::connect(path)?,
        Address::Abstract(name) => net::UnixStream::connect_addr(&net::SocketAddr::from_abstract_name(name)?)?,
        Address::Tcp(_) => return Err(io::ErrorKind::Unsupported.into()),
    };
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// The JSON form of an answer.
pub(super) fn print_json(answer: Option<Value>) -> Exit {
    match answer {
        Some(answer) => print(format_args!("{answer:#}")),
        None => {
            complain("the answer has no JSON form");
            Exit::Failed
        }
    }
}

/// A text that others wrote, without what a terminal would obey.
pub(super) fn inert(text: &str) -> Cow<'_, str> {
    let obeyed =
        |c: char| c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| if obeyed(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escaped).collect())
}

/// The text, or a dash where there is none.
pub(super) fn or_dash(text: &str) -> Cow<'_, str> {
    inert(if text.is_empty() { "-" } else { text })
}

/// In UTC.
pub(super) fn time(at: Option<&Timestamp>, form: &str) -> String {
    let at = at.and_then(|at| DateTime::from_timestamp(at.seconds, u32::try_from(at.nanos).ok()?));
    at.map_or_else(|| "-".to_owned(), |at| at.format(form).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_that_others_wrote() {
        assert_eq!(inert("plain é"), "plain é");
        assert_eq!(inert("a\u{1b}[2Jb\nc\u{202e}"), "a\\u{1b}[2Jb\\nc\\u{202e}");
        assert_eq!(or_dash(""), "-");
    }
}
