//! Where callers connect: binding a Unix, abstract or TCP socket, and admitting only the callers that the listener
//! names. Whoever is admitted can speak for any workload, so a stranger is turned away before a byte is read.

use std::{
    fs, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
            net::{SocketAddr as UnixAddr, UnixListener as StdUnixListener, UnixStream as StdUnixStream},
        },
    },
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use rustls::ServerConfig;
use spiffe::SpiffeId;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::{
    clock,
    config::{Address, FileMode},
    identity::{Peer, caller},
    telemetry::metrics::{Metrics, Transport},
    trust::TrustStore,
};

/// Connections admitted and not yet taken up by the server.
const BACKLOG: usize = 64;
/// TLS handshakes at a time, and the longest one.
const HANDSHAKES: usize = 64;
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// Connections at a time to our own API over TCP, where anybody may begin one: what they hold must not be missing elsewhere.
const REMOTES: usize = 256;
/// Pause after a failed accept: with no file descriptor left, trying again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a listener could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot listen on `{address}`")]
    Io {
        address: Address,
        #[source]
        source: io::Error,
    },
    #[error("`{}` is no socket; move it away, or choose another `address`", path.display())]
    NotASocket { path: PathBuf },
    #[error("another process listens on `{}`; stop it, or start with `--take-over`", path.display())]
    InUse { path: PathBuf },
}

/// What to do about a socket that another live process listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupied {
    Refuse,
    /// Take its place: new connections come here, the old process keeps those it has.
    TakeOver,
}

/// A process that may not call.
pub type Stranger = tokio::net::unix::UCred;

/// Who may call.
#[derive(Debug, Clone)]
pub enum Callers {
    /// Processes of these users, by SO_PEERCRED.
    Uids(Vec<u32>),
    /// The same for our own API, where somebody is told of the others, once a second at most.
    Operators(Vec<u32>, mpsc::Sender<Stranger>),
    /// Holders of these SPIFFE IDs, by client certificate.
    SpiffeIds(Arc<ServerConfig>, Arc<[SpiffeId]>, Arc<TrustStore>),
    /// Whoever comes over TLS to our own API, where each call shows who it is; who shows a certificate shows a valid SVID.
    Remote(Arc<ServerConfig>, Arc<TrustStore>),
    /// TLS without client authentication, by `insecure: true`.
    AnyoneOverTls(Arc<ServerConfig>),
    /// By `insecure: true`.
    Anyone,
}

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    /// The file of a Unix socket, taken away when nobody accepts any more.
    file: Option<SocketFile>,
    pub address: Address,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// The socket's file; removed on drop while it is still ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    /// Binds `address`; port 0 is replaced by the port given. Must run inside a runtime.
    pub fn bind(address: &Address, mode: FileMode, occupied: Occupied) -> Result<Self, BindError> {
        let failed = |source| BindError::Io { address: address.clone(), source };
        let mut file = None;
        let socket = match address {
            Address::Unix(path) => {
                let (listener, bound) = bind_path(path, mode, occupied, &failed)?;
                file = Some(bound);
                Socket::Unix(from_std(listener).map_err(failed)?)
            }
            Address::Abstract(name) => {
                let bound = UnixAddr::from_abstract_name(name).and_then(|name| StdUnixListener::bind_addr(&name));
                Socket::Unix(bound.and_then(from_std).map_err(failed)?)
            }
            Address::Tcp(socket) => {
                let bound = std::net::TcpListener::bind(socket).and_then(|listener| {
                    listener.set_nonblocking(true)?;
                    TcpListener::from_std(listener)
                });
                Socket::Tcp(bound.map_err(failed)?)
            }
        };
        let address = match &socket {
            Socket::Tcp(listener) => Address::Tcp(listener.local_addr().map_err(failed)?),
            Socket::Unix(_) => address.clone(),
        };
        Ok(Self { socket, file, address })
    }

    /// Accepts until `stop`, and yields the connections of admitted callers.
    pub fn accept(
        self,
        callers: Callers,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> ReceiverStream<io::Result<Connection>> {
        let (admitted, connections) = mpsc::channel(BACKLOG);
        let gate = Gate {
            callers,
            metrics,
            told: Arc::default(),
            admitted,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
            remotes: Arc::new(Semaphore::new(REMOTES)),
        };
        tokio::spawn(async move {
            let _file = self.file;
            let _ = stop.run_until_cancelled(gate.run(self.socket)).await;
        });
        ReceiverStream::new(connections)
    }
}

fn from_std(listener: StdUnixListener) -> io::Result<UnixListener> {
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Binds beside the path and renames over it: the file has its mode before anybody can connect, and a stale socket is
/// replaced without a moment in which there is none.
fn bind_path(
    path: &Path,
    mode: FileMode,
    occupied: Occupied,
    failed: &impl Fn(io::Error) -> BindError,
) -> Result<(StdUnixListener, SocketFile), BindError> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket { path: path.to_owned() }),
        Ok(_) if occupied == Occupied::Refuse && StdUnixStream::connect(path).is_ok() => {
            return Err(BindError::InUse { path: path.to_owned() });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            path.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
        }
        Err(error) => return Err(failed(error)),
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let bound = || -> io::Result<(StdUnixListener, SocketFile)> {
        let _ = fs::remove_file(&beside);
        let listener = StdUnixListener::bind(&beside)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(mode.bits()))?;
        let inode = fs::symlink_metadata(&beside)?.ino();
        fs::rename(&beside, path)?;
        Ok((listener, SocketFile { path: path.to_owned(), inode }))
    };
    bound().map_err(|error| {
        let _ = fs::remove_file(&beside);
        failed(error)
    })
}

/// The user this process runs as, as a peer would see it.
pub fn own_uid() -> io::Result<u32> {
    let (one, _other) = UnixStream::pair()?;
    Ok(one.peer_cred()?.uid())
}

struct Gate {
    callers: Callers,
    metrics: Arc<Metrics>,
    /// Second of the last line about a connection: whoever can connect could else fill the log.
    told: Arc<AtomicI64>,
    admitted: mpsc::Sender<io::Result<Connection>>,
    handshakes: Arc<Semaphore>,
    remotes: Arc<Semaphore>,
}

impl Gate {
    async fn run(self, socket: Socket) {
        loop {
            let accepted = match &socket {
                Socket::Unix(listener) => listener.accept().await.map(|(stream, _)| Connection::Unix(stream)),
                Socket::Tcp(listener) => listener.accept().await.and_then(|(stream, _)| {
                    stream.set_nodelay(true)?;
                    Ok(Connection::Tcp(stream))
                }),
            };
            match accepted {
                Ok(connection) => self.admit(connection).await,
                Err(error) => {
                    if self.may_tell() {
                        tracing::warn!(%error, "accepting a connection failed");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn admit(&self, connection: Connection) {
        match (&self.callers, connection) {
            (Callers::Uids(uids), Connection::Unix(stream)) => match stream.peer_cred() {
                Ok(peer) if uids.contains(&peer.uid()) => self.hand_over(Connection::Unix(stream)).await,
                Ok(peer) => self.refuse(Transport::Unix, &format!("user id {} is not in `callers.uids`", peer.uid())),
                Err(error) => self.refuse(Transport::Unix, &format!("its user id is unknown: {error}")),
            },
            (Callers::Operators(uids, strangers), Connection::Unix(stream)) => match stream.peer_cred() {
                Ok(peer) if uids.contains(&peer.uid()) => self.hand_over(Connection::Unix(stream)).await,
                Ok(peer) => {
                    if self.turn_away(Transport::Control, &format!("user id {} is not in `control.uids`", peer.uid())) {
                        // With so many waiting to be told of, one more tells nothing new.
                        let _ = strangers.try_send(peer);
                    }
                }
                Err(error) => self.refuse(Transport::Control, &format!("its user id is unknown: {error}")),
            },
            (Callers::Anyone, connection @ Connection::Tcp(_)) => self.hand_over(connection).await,
            (Callers::SpiffeIds(tls, allowed, trust), Connection::Tcp(stream)) => {
                self.handshake(stream, tls, Admits::These(Arc::clone(allowed), Arc::clone(trust))).await;
            }
            (Callers::Remote(tls, trust), Connection::Tcp(stream)) => match Arc::clone(&self.remotes).try_acquire_owned() {
                Ok(place) if self.handshakes.available_permits() > 0 => {
                    self.handshake(stream, tls, Admits::Svids(Arc::clone(trust), place)).await;
                }
                // Who waits here keeps everybody else waiting.
                Ok(_) | Err(_) => self.refuse(Transport::Tls, "too many connections to `control.remote`"),
            },
            (Callers::AnyoneOverTls(tls), Connection::Tcp(stream)) => self.handshake(stream, tls, Admits::All).await,
            _ => self.refuse(Transport::Tcp, "this listener admits no caller of this kind"),
        }
    }

    /// Shakes hands in a task of its own, so that a slow caller keeps nobody else waiting.
    async fn handshake(&self, stream: TcpStream, tls: &Arc<ServerConfig>, admits: Admits) {
        let Ok(slot) = Arc::clone(&self.handshakes).acquire_owned().await else { return };
        let acceptor = TlsAcceptor::from(Arc::clone(tls));
        let gate = Self {
            callers: Callers::Anyone,
            metrics: Arc::clone(&self.metrics),
            told: Arc::clone(&self.told),
            admitted: self.admitted.clone(),
            handshakes: Arc::clone(&self.handshakes),
            remotes: Arc::clone(&self.remotes),
        };
        tokio::spawn(async move {
            let _slot = slot;
            let stream = match timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    let why = caller::refusal(&error).map_or_else(|| error.to_string(), |reason| reason.to_string());
                    return gate.refuse(Transport::Tls, &why);
                }
                Err(_) => return gate.refuse(Transport::Tls, "the handshake took too long"),
            };
            let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let peer = match &admits {
                Admits::All => None,
                Admits::Svids(..) if certificates.is_empty() => None,
                Admits::These(_, trust) | Admits::Svids(trust, _) => match caller::peer(certificates, trust, clock::now()) {
                    Ok(peer) => Some(peer),
                    Err(reason) => return gate.refuse(Transport::Tls, reason.as_str()),
                },
            };
            if let (Admits::These(allowed, _), Some(peer)) = (&admits, &peer)
                && !allowed.contains(&peer.id)
            {
                return gate.refuse(Transport::Tls, &format!("`{}` is not in `callers.spiffe_ids`", peer.text));
            }
            let place = match admits {
                Admits::Svids(_, place) => Some(place),
                Admits::All | Admits::These(..) => None,
            };
            gate.hand_over(Connection::Tls(Box::new(stream), peer.map(Arc::new), place)).await;
        });
    }

    async fn hand_over(&self, connection: Connection) {
        // The receiver is gone only when the server has stopped.
        let _ = self.admitted.send(Ok(connection)).await;
    }

    fn refuse(&self, transport: Transport, why: &str) {
        self.turn_away(transport, why);
    }

    /// Counts a refusal, and says whether it was told of.
    fn turn_away(&self, transport: Transport, why: &str) -> bool {
        self.metrics.caller_refused(transport);
        let told = self.may_tell();
        if told {
            let remedy = match transport {
                Transport::Control => "if it is an operator's, add it to `control.uids`",
                Transport::Unix | Transport::Tcp | Transport::Tls => "if it is your Envoy, add it to the listener's `callers`",
            };
            tracing::warn!(listener = transport.as_str(), why, remedy, "refused a caller");
        }
        told
    }

    /// True once a second.
    fn may_tell(&self) -> bool {
        let second = clock::now().seconds();
        self.told.swap(second, Ordering::Relaxed) != second
    }
}

/// Whom a handshake lets in.
enum Admits {
    All,
    /// Holders of any valid SVID, and who shows none, as long as there are places.
    Svids(Arc<TrustStore>, OwnedSemaphorePermit),
    These(Arc<[SpiffeId]>, Arc<TrustStore>),
}

/// Who is at the other end of a connection, as far as the connection tells.
#[derive(Debug, Clone)]
pub enum Remote {
    Process(tokio::net::unix::UCred),
    Workload(Arc<Peer>),
    Unknown,
}

/// A connection of an admitted caller.
#[derive(Debug)]
pub enum Connection {
    Unix(UnixStream),
    Tcp(TcpStream),
    /// With the caller, where it has shown who it is, and its place, where those are counted.
    Tls(
        Box<TlsStream<TcpStream>>,
        Option<Arc<Peer>>,
        #[expect(dead_code, reason = "given back when the connection goes")] Option<OwnedSemaphorePermit>,
    ),
}

impl Connected for Connection {
    type ConnectInfo = Remote;

    fn connect_info(&self) -> Remote {
        match self {
            Self::Unix(stream) => stream.peer_cred().map_or(Remote::Unknown, Remote::Process),
            Self::Tls(_, Some(peer), _) => Remote::Workload(Arc::clone(peer)),
            Self::Tcp(_) | Self::Tls(_, None, _) => Remote::Unknown,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream, ..) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream, ..) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream, ..) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream, ..) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream, ..) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream, ..) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
