//! A listening TCP socket and its connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::is_loopback;
use super::local_user::owner_of;
use super::slots::{ConnectionLimits, ConnectionSlots};

/// The most connections.
fn limits() -> ConnectionLimits {
    ConnectionLimits { all: 1024, of_client: 256, kept_for: Some(rustix::process::geteuid().as_raw()) }
}

/// Time within which a client must send the head of a request, also on a connection that it keeps open.
const HEAD_WITHIN: Duration = Duration::from_secs(90);
/// Time after which a connection ends whose client takes no bytes.
const TAKEN_WITHIN: Duration = Duration::from_secs(600);
/// How long to wait after the system refused a connection, for example because descriptors are short.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// A socket that listens and is not served yet.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens on an address; port 0 is any free port.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        Ok(Self { address: socket.local_addr()?, socket })
    }

    /// The address in use.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves connections until the returned server is dropped.
    pub fn serve(self, router: Router) -> EndpointServer {
        let (ending, ends) = watch::channel(false);
        let mut task = JoinSet::new();
        task.spawn(accept(self.socket, router, ends));
        EndpointServer { address: self.address, _ending: ending, task }
    }
}

/// A running server. Dropping it closes all its connections.
#[derive(Debug)]
pub struct EndpointServer {
    address: SocketAddr,
    _ending: watch::Sender<bool>,
    task: JoinSet<()>,
}

impl EndpointServer {
    /// The address in use.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the socket and all connections. The port is free on return.
    pub async fn end(&mut self) {
        self.task.shutdown().await;
    }
}

async fn accept(listener: TcpListener, router: Router, mut ends: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let places = ConnectionSlots::new(limits());
    loop {
        let accepted = tokio::select! {
            biased;
            // The sender was dropped.
            _ = ends.wait_for(|ends| *ends) => break,
            Some(_) = connections.join_next() => continue,
            accepted = async { places.room().await; listener.accept().await } => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let user = stream.local_addr().ok().filter(|_| is_loopback(peer.ip()));
                let user = user.and_then(|own| owner_of(peer, own));
                let Some(place) = places.place(peer.ip(), user) else {
                    tracing::debug!(address = %peer.ip(), user, "refused a connection: the client has too many");
                    continue;
                };
                prepare(&stream);
                let place = Arc::new(place);
                let (inner, held) = (TowerToHyperService::new(router.clone()), place.clone());
                let service = service_fn(move |request| held.hold(inner.call(request)));
                let mut builder = http1::Builder::new();
                builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
                let connection = builder.serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move {
                    tokio::select! {
                        biased;
                        () = place.taken() => tracing::debug!("closed a connection that waited for a request"),
                        // A client that disconnects is no failure.
                        ended = connection => {
                            let _ = ended.inspect_err(|e| tracing::debug!(error = %e, "a connection failed"));
                        }
                    }
                });
            }
            Err(e) => {
                tracing::warn!(error = %e, "could not accept a connection");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

/// Sets the options of a connection. A failure is ignored: they only shorten waits.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(stream, true);
    let millis = u32::try_from(TAKEN_WITHIN.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, millis);
}
