//! What the commands that ask a running doorward share: where its own API is, how to reach it, and what a refusal
//! comes to.

use std::{
    borrow::Cow,
    error::Error as _,
    fs, io,
    os::{linux::net::SocketAddrExt as _, unix::net},
    path::PathBuf,
    sync::Arc,
};

use chrono::DateTime;
use hyper_util::rt::TokioIo;
use prost::Name;
use prost_types::Timestamp;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, ServerName,
        pem::{self, PemObject},
    },
    sign::SingleCertAndKey,
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    runtime::Builder,
};
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use super::{Exit, Output, complain, mention, print};
use crate::{
    config::{self, Address},
    control::proto::to_json,
    tls,
};

/// Most items of a page.
const MAX_PAGE: i32 = 1000;

/// A connection to a doorward, with what says who we are.
pub(super) type Api = InterceptedService<Channel, Bearer>;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Where the doorward to ask listens for operators: `control.address`, or `control.remote.address` like `tcp://host:9443`
    #[arg(long = "control", value_name = "ADDRESS", default_value_t = config::Control::default().address)]
    address: Address,
    /// File with the OIDC token that says which person asks
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Over TCP: the authorities of its certificate, as PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Over TCP: our own certificate, an SVID, as PEM
    #[arg(long, value_name = "FILE", requires = "svid_key")]
    svid: Option<PathBuf>,
    /// Over TCP: the key of `--svid`, as PEM
    #[arg(long, value_name = "FILE", requires = "svid")]
    svid_key: Option<PathBuf>,
    /// Over TCP: what its certificate is for, where that is not its address
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
}

/// Whom to ask, and how to print the answer.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Common {
    /// How to print it
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(super) output: Output,
    #[command(flatten)]
    pub(super) control: Args,
}

impl Common {
    /// Prints an answer.
    pub(super) fn show<M: Name>(&self, answer: &M, table: impl FnOnce() -> String) -> Exit {
        match self.output {
            Output::Json => print_json(to_json(answer)),
            Output::Table => print(table()),
        }
    }
}

/// Shows a token with each call.
#[derive(Debug, Clone)]
pub(super) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

impl Args {
    /// Connects and does `work`; what goes wrong is told.
    pub(super) fn run(&self, work: impl AsyncFnOnce(Api) -> Result<Exit, Status>) -> Exit {
        if matches!(self.address, Address::Tcp(_)) && self.ca.is_none() {
            complain("over TCP, say with `--ca` which authority its certificate comes from");
            return Exit::Invalid;
        }
        let bearer = match self.bearer() {
            Ok(bearer) => bearer,
            Err(wrong) => {
                complain(wrong);
                return Exit::Invalid;
            }
        };
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                complain(format_args!("cannot start: {error}"));
                return Exit::Failed;
            }
        };
        runtime.block_on(async {
            let mut stream = match self.connect().await {
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
                Ok(channel) => {
                    let api = InterceptedService::new(channel, bearer);
                    work(api).await.unwrap_or_else(|status| self.refused(&status))
                }
                Err(error) => self.hung_up(&super::chain(error)),
            }
        })
    }

    fn bearer(&self) -> Result<Bearer, String> {
        let Some(path) = &self.token_file else { return Ok(Bearer(None)) };
        let text = fs::read_to_string(path).map_err(|error| format!("`{}` (`--token-file`): {error}", path.display()))?;
        let no_token = |_| format!("`{}` (`--token-file`) holds no token", path.display());
        let mut token = MetadataValue::try_from(format!("Bearer {}", text.trim())).map_err(no_token)?;
        token.set_sensitive(true);
        Ok(Bearer(Some(token)))
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let unix = |stream: net::UnixStream| {
            stream.set_nonblocking(true)?;
            Ok(Box::new(UnixStream::from_std(stream)?) as Box<dyn Stream>)
        };
        match &self.address {
            Address::Unix(path) => unix(net::UnixStream::connect(path)?),
            Address::Abstract(name) => unix(net::UnixStream::connect_addr(&net::SocketAddr::from_abstract_name(name)?)?),
            Address::Tcp(address) => {
                let name = self.server_name.clone().unwrap_or_else(|| address.ip().to_string());
                let name = ServerName::try_from(name).map_err(io::Error::other)?;
                let tls = TlsConnector::from(Arc::new(self.tls()?));
                Ok(Box::new(tls.connect(name, TcpStream::connect(address).await?).await?))
            }
        }
    }

    fn tls(&self) -> io::Result<ClientConfig> {
        let ca =
            self.ca.as_ref().ok_or_else(|| io::Error::other("say with `--ca` which authority its certificate comes from"))?;
        let unread = |error: pem::Error| io::Error::other(format!("`{}` (`--ca`): {error}", ca.display()));
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(ca).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        roots.add_parsable_certificates(certificates.map_err(unread)?);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(io::Error::other)?.with_root_certificates(roots);
        let mut config = match (&self.svid, &self.svid_key) {
            (Some(certificate), Some(key)) => {
                let svid = tls::load(&config::Tls { certificate: certificate.clone(), key: key.clone() });
                let certified = svid.map_err(io::Error::other)?.certified;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
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

/// The items of a list, at most `limit` of them, of as many pages as it takes, and the token of the page that would be next.
pub(super) async fn pages<T>(
    limit: usize,
    mut page: impl AsyncFnMut(i32, String) -> Result<(Vec<T>, String), Status>,
) -> Result<(Vec<T>, String), Status> {
    let (mut items, mut token) = (Vec::new(), String::new());
    loop {
        let left = limit.saturating_sub(items.len());
        if left == 0 {
            mention("there are more; raise `--limit`, or select");
            return Ok((items, token));
        }
        let (more, next) = page(i32::try_from(left).unwrap_or(MAX_PAGE).min(MAX_PAGE), token).await?;
        items.extend(more);
        token = next;
        if token.is_empty() {
            return Ok((items, token));
        }
    }
}

/// What a call can go over.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

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
