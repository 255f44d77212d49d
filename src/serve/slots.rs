//! The places for connections, and the one to close when there are too many.
//!
//! Any local user can open connections to loopback and send nothing. So a connection that waits for the head of a request
//! has no right to its place: for a further connection, the one that has waited longest is closed. A connection whose request
//! is being answered is never closed for that reason. So that no other client can keep the programs of this process's own user away
//! by requests whose answers they take slowly, some places are kept for that user.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, HttpBody};
use hyper::body::{Bytes, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::is_loopback;

/// The most connections at a time.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// All connections. If all of them are being answered, further clients wait in the queue of the system.
    pub all: usize,
    /// Those of one client. If all of them are being answered, further ones are closed.
    pub of_client: usize,
    /// A user of this machine for which `of_client` of all connections are kept: if all remaining ones are being answered, further
    /// connections of other clients are closed.
    pub kept_for: Option<u32>,
}

/// All connections of a server.
pub struct ConnectionSlots {
    limits: ConnectionLimits,
    places: Mutex<Table>,
    /// A connection has ended, or waits for a request.
    changed: Notify,
}

#[derive(Default)]
struct Table {
    next: u64,
    open: HashMap<u64, Entry>,
}

/// The hosts and programs that have connections together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientGroup {
    /// An IPv4 address, or an IPv6 network of 64 bits. The first address of the loopback is local programs of unknown users.
    Host(IpAddr),
    /// The programs of a user of this machine that connect over the loopback.
    User(u32),
}

struct Entry {
    client: ClientGroup,
    /// None while a request is being answered.
    waits_since: Option<Instant>,
    end: Arc<Notify>,
}

/// The place of one connection, until it is dropped.
pub struct ConnectionSlot {
    places: Arc<ConnectionSlots>,
    number: u64,
    end: Arc<Notify>,
}

/// A request that is being answered, until it is dropped.
struct Answering(Arc<ConnectionSlot>);

impl Table {
    fn count(&self, of: impl Fn(ClientGroup) -> bool) -> usize {
        self.open.values().filter(|entry| of(entry.client)).count()
    }

    /// Takes the place of the connection of such a client that has waited longest.
    fn free_one(&mut self, of: impl Fn(ClientGroup) -> bool) -> bool {
        let waiting = self.open.iter().filter(|(_, entry)| of(entry.client));
        let waiting = waiting.filter_map(|(number, entry)| Some((entry.waits_since?, *number)));
        let Some((_, number)) = waiting.min() else { return false };
        let Some(entry) = self.open.remove(&number) else { return false };
        entry.end.notify_one();
        true
    }
}

impl ConnectionSlots {
    pub fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self { limits, places: Mutex::default(), changed: Notify::new() })
    }

    /// Waits until there is a place, or one that can be freed.
    pub async fn room(&self) {
        loop {
            let changed = self.changed.notified();
            {
                let table = self.places.lock();
                if table.open.len() < self.limits.all
                    || table.open.values().any(|entry| entry.waits_since.is_some())
                {
                    return;
                }
            }
            changed.await;
        }
    }

    /// A place for a connection from an address, and from a user of this machine if that is known; none if all places that the
    /// client can have are being answered.
    pub fn place(self: &Arc<Self>, address: IpAddr, user: Option<u32>) -> Option<ConnectionSlot> {
        let client = user.map_or_else(|| ClientGroup::Host(first_address(address)), ClientGroup::User);
        let mut table = self.places.lock();
        let ConnectionLimits { all, of_client, kept_for } = self.limits;
        let is_client = |one: ClientGroup| one == client;
        if table.count(is_client) >= of_client && !table.free_one(is_client) {
            return None;
        }
        if let Some(user) = kept_for {
            let is_other = |one: ClientGroup| one != ClientGroup::User(user);
            let most = all.saturating_sub(of_client);
            if is_other(client) && table.count(is_other) >= most && !table.free_one(is_other) {
                return None;
            }
        }
        if table.open.len() >= all && !table.free_one(|_| true) {
            return None;
        }
        let end = Arc::new(Notify::new());
        let number = table.next;
        table.next += 1;
        table.open.insert(number, Entry { client, waits_since: Some(Instant::now()), end: end.clone() });
        Some(ConnectionSlot { places: self.clone(), number, end })
    }

    fn set_waiting(&self, number: u64, since: Option<Instant>) {
        if let Some(entry) = self.places.lock().open.get_mut(&number) {
            entry.waits_since = since;
        }
        if since.is_some() {
            self.changed.notify_one();
        }
    }
}

impl ConnectionSlot {
    /// Waits until another connection has taken the place.
    pub async fn taken(&self) {
        self.end.notified().await;
    }

    /// The response with a body that keeps the place until it is sent.
    pub fn hold<F>(self: &Arc<Self>, answer: F) -> impl Future<Output = F::Output> + use<F>
    where
        F: Future<Output = Result<axum::response::Response, std::convert::Infallible>>,
    {
        self.places.set_waiting(self.number, None);
        let answering = Answering(self.clone());
        async move {
            answer.await.map(|response| response.map(|body| Body::new(Held { body, _answering: answering })))
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.places.places.lock().open.remove(&self.number);
        self.places.changed.notify_one();
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.places.set_waiting(self.0.number, Some(Instant::now()));
    }
}

/// A body that is being sent.
struct Held {
    body: Body,
    _answering: Answering,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The first address of those that one host easily has.
fn first_address(address: IpAddr) -> IpAddr {
    if is_loopback(address) {
        return Ipv4Addr::LOCALHOST.into();
    }
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) >> 64 << 64).into(),
        four => four,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn places(all: usize, of_client: usize) -> Arc<ConnectionSlots> {
        ConnectionSlots::new(ConnectionLimits { all, of_client, kept_for: None })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn is_taken(place: &ConnectionSlot) -> bool {
        place.taken().now_or_never().is_some()
    }

    #[tokio::test]
    async fn longest_waiting_connection_is_closed_for_a_further_one() {
        let places = places(3, 3);
        let open: Vec<ConnectionSlot> =
            (1..4).map(|n| places.place(Ipv4Addr::new(10, 0, 0, n).into(), None).unwrap()).collect();
        let _further = places.place(ip("10.0.0.9"), None).unwrap();
        assert!(is_taken(&open[0]) && !is_taken(&open[1]) && !is_taken(&open[2]));
    }

    #[tokio::test]
    async fn connection_that_is_answered_keeps_its_place() {
        let places = places(2, 2);
        let [first, second] =
            [1, 2].map(|n| Arc::new(places.place(Ipv4Addr::new(10, 0, 0, n).into(), None).unwrap()));
        let answer = |place: &Arc<ConnectionSlot>| {
            place.hold(async { Ok(axum::response::Response::new(Body::from("x"))) })
        };
        let response = answer(&first).await.unwrap();
        let _third = places.place(ip("10.0.0.3"), None).unwrap();
        assert!(is_taken(&second) && !is_taken(&first));
        // The body is sent, so the connection waits again.
        drop(response);
        let _fourth = places.place(ip("10.0.0.4"), None).unwrap();
        let _fifth = places.place(ip("10.0.0.5"), None).unwrap();
        assert!(is_taken(&first));
    }

    #[tokio::test]
    async fn client_of_many_addresses_has_few_places() {
        for (own, other) in [
            (["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.2"], "10.0.0.1"),
            (["2001:db8::1", "2001:db8::2", "2001:db8:0:0:3::", "2001:db8::4"], "2001:db8:0:1::1"),
            (["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"], "192.0.2.2"),
        ] {
            let places = places(100, 3);
            let open: Vec<_> = own.iter().map(|own| Arc::new(places.place(ip(own), None).unwrap())).collect();
            assert!(is_taken(&open[0]), "{own:?}");
            let _answered: Vec<_> = open.iter().map(|place| place.hold(std::future::pending())).collect();
            assert!(places.place(ip(own[0]), None).is_none(), "{own:?}");
            assert!(places.place(ip(other), None).is_some(), "{other}");
        }
    }

    #[tokio::test]
    async fn users_of_this_machine_have_their_own_places() {
        let places = places(100, 3);
        let local = ip("127.0.0.1");
        let open: Vec<_> = (0..3).map(|_| Arc::new(places.place(local, Some(1000)).unwrap())).collect();
        let _answered: Vec<_> = open.iter().map(|place| place.hold(std::future::pending())).collect();
        assert!(places.place(local, Some(1000)).is_none());
        assert!(places.place(local, Some(1001)).is_some() && places.place(local, None).is_some());
    }

    #[tokio::test]
    async fn other_users_leave_places_to_the_own_user() {
        let places = ConnectionSlots::new(ConnectionLimits { all: 4, of_client: 2, kept_for: Some(1000) });
        let local = ip("127.0.0.1");
        let open: Vec<_> = (0..2).map(|n| Arc::new(places.place(local, Some(2000 + n)).unwrap())).collect();
        let answered: Vec<_> = open.iter().map(|place| place.hold(std::future::pending())).collect();
        assert!(places.place(local, Some(3000)).is_none() && places.place(ip("10.0.0.1"), None).is_none());
        let own: Vec<_> = (0..2).map(|_| Arc::new(places.place(local, Some(1000)).unwrap())).collect();
        // Other users get no place that the own user does not need just now.
        drop(answered);
        assert!(places.place(local, Some(3000)).is_some());
        assert!(own.iter().all(|place| !is_taken(place)));
    }

    #[tokio::test]
    async fn further_clients_wait_while_all_connections_are_answered() {
        let places = places(1, 1);
        let first = Arc::new(places.place(ip("10.0.0.1"), None).unwrap());
        let answered = first.hold(std::future::pending());
        let mut room = std::pin::pin!(places.room());
        assert!(room.as_mut().now_or_never().is_none());
        drop(answered);
        room.await;
        assert!(places.place(ip("10.0.0.2"), None).is_some());
    }
}
