//! `doorward health`: asks the operations listener for readiness. For probes in an image that has no shell.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use super::{Exit, complain, print};

/// A local process that does not answer in this time is not well.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address of its operations listener
    #[arg(long, default_value = "127.0.0.1:9919")]
    address: SocketAddr,
    /// Ask only whether it runs, not whether it may be asked
    #[arg(long)]
    live: bool,
}

pub(super) fn run(args: &Args) -> Exit {
    let path = if args.live { "/livez" } else { "/readyz" };
    match ask(args.address, path) {
        Ok((200, body)) => print(body),
        Ok((_, body)) => {
            complain(format_args!("not ready: {body}"));
            Exit::Failed
        }
        Err(error) => {
            complain(format_args!("cannot ask `{}`: {error}", args.address));
            Exit::Failed
        }
    }
}

/// One request with HTTP/1.0, after which the server closes.
fn ask(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, body.trim().to_owned()))
}
