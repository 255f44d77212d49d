//! A listening TCP socket and its connections.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The most connections at a time. Further clients wait in the queue of the system.
const MAX_CONNECTIONS: usize = 1024;
/// The most connections of one address. Further ones are closed.
const MAX_OF_ADDRESS: usize = 256;
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
    pub fn serve(self, router: Router) -> Server {
        let (ending, ends) = watch::channel(false);
        let mut task = JoinSet::new();
        task.spawn(accept(self.socket, router, ends));
        Server { address: self.address, _ending: ending, task }
    }
}

/// A running server. Dropping it closes all its connections.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    _ending: watch::Sender<bool>,
    task: JoinSet<()>,
}

impl Server {
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
    let of_address = Arc::new(OfAddress::default());
    loop {
        let accepted = tokio::select! {
            biased;
            // The sender was dropped.
            _ = ends.wait_for(|ends| *ends) => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(place) = OfAddress::place(&of_address, peer.ip()) else {
                    tracing::debug!(address = %peer.ip(), "refused a connection: the address has too many");
                    continue;
                };
                prepare(&stream);
                let service = TowerToHyperService::new(router.clone());
                let mut builder = http1::Builder::new();
                builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
                let connection = builder.serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move {
                    let _until_closed = place;
                    // A client that disconnects is no failure.
                    let _ =
                        connection.await.inspect_err(|e| tracing::debug!(error = %e, "a connection failed"));
                });
            }
            Err(e) => {
                tracing::warn!(error = %e, "could not accept a connection");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

/// The number of connections of each address.
#[derive(Default)]
struct OfAddress(Mutex<HashMap<IpAddr, usize>>);

/// The place of one connection, until it is dropped.
struct Place {
    counts: Arc<OfAddress>,
    address: IpAddr,
}

impl OfAddress {
    /// A place for a connection; none if the address has [`MAX_OF_ADDRESS`].
    fn place(counts: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut of = counts.0.lock();
        let count = of.entry(address).or_default();
        if *count >= MAX_OF_ADDRESS {
            return None;
        }
        *count += 1;
        Some(Place { counts: Arc::clone(counts), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of = self.counts.0.lock();
        if let Entry::Occupied(mut count) = of.entry(self.address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
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
