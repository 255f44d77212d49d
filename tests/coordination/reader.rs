//! What a reader requests from which peer: the same steps as in cpp/together.cc, with the same rules. The choice, the queues,
//! silence, claims and supply are those of the engine (`try_choose`, `TrialPeer`, `TrialSupply`).

use std::ops::Range;

use silmaril::torrent::{ChoicePiece, ChosenPeer, trial_patience, trial_place, try_choose};

use super::host::{Claim, Kind, Links};
use super::net::{BLOCK, Event, Net, SECOND, Time};

/// As in cpp/together.cc.
const MOST_WANTED: usize = 64;
const READERS_OF_A_SEED: u32 = 2;
const MANY_READERS: u32 = 16;
const UNKNOWN_PIECE_TIME: u64 = 1000;
const LIST_LASTS: Time = 50_000;
const COUNTS_FOR: Time = 60 * SECOND;

/// As in cpp/claims.h.
const MOST_CLAIMS: usize = 4;

/// As in src/fetch/readahead.rs: pieces with deadlines behind the one that a read waits for, and the time between them.
const NEAR_PIECES: u32 = 2;
const NEAR_STEP: Time = SECOND / 2;

/// How long the reasons to fill the queues again are collected.
const TURN: Time = 5_000;

/// How long a list of claims is used.
const CLAIMS_LAST: Time = 5_000;

/// A read of parts of a piece that gets nothing for so long asks another peer.
const LATE: Time = SECOND / 2;

struct Want {
    piece: u32,
    /// Milliseconds.
    overdue: Option<u32>,
}

impl Net {
    pub fn turn_soon(&mut self, id: usize) {
        if self.hosts[id].is_reading() && !std::mem::replace(&mut self.hosts[id].turns, true) {
            self.at(self.now + TURN, Event::Turn(id));
        }
    }

    pub fn turn(&mut self, id: usize) {
        self.hosts[id].turns = false;
        if !self.hosts[id].is_reading() {
            return;
        }
        if self.window(id).is_empty() {
            self.open_read(id);
            return;
        }
        // Readers first: a seed is asked for what they do not have.
        for seeds in [false, true] {
            for link in 0..self.hosts[id].links.len() {
                let end = &self.hosts[id].links[link];
                if (end.announced > 0 || !end.offers.is_empty())
                    && self.is_seed(id, link) == seeds
                    && (seeds || !end.dry)
                {
                    self.ask(id, link);
                }
            }
        }
        self.send_claims(id);
    }

    pub fn tick(&mut self, id: usize) {
        let now = self.now;
        if self.hosts[id].kind == Kind::Claimer && self.hosts.iter().any(|host| host.is_reading()) {
            let pieces = (0..4).map(|_| self.rng.u32(0..self.scenario.pieces)).collect();
            self.at(now + self.half(), Event::Claims(id, pieces));
            self.at(now + SECOND, Event::Tick(id));
        }
        if !self.hosts[id].is_reading() {
            return;
        }
        self.at(now + SECOND, Event::Tick(id));
        let (blocks, round_trip) = (self.scenario.blocks, self.scenario.round_trip);
        for link in 0..self.hosts[id].links.len() {
            self.trickle(id, link);
            let end = &mut self.hosts[id].links[link];
            end.average();
            let flow = end.flow(blocks);
            end.rules.tick(flow, round_trip, now).unwrap();
        }
        self.look(id);
        let seeds = self.seeds(id);
        let host = &mut self.hosts[id];
        host.looked = None;
        if host.readers != 0 {
            let (mut came, mut asked) = ([0, 0], [false, false]);
            for (link, seed) in host.links.iter().zip(seeds) {
                came[usize::from(seed)] += link.rules.came().unwrap();
                asked[usize::from(seed)] |= !link.asked.is_empty();
            }
            host.supply.tick(came.into(), asked.into()).unwrap();
            let some_send =
                host.links.iter().enumerate().any(|(at, link)| link.received > 0 && host.good >> at & 1 == 1);
            for link in 0..host.links.len() {
                let end = &mut host.links[link];
                if !end.open {
                    continue;
                }
                if !some_send && end.received > 0 {
                    end.rules.resume().unwrap();
                } else if end.rules.is_silent_or_slow(end.requests(blocks), host.piece_time).unwrap() {
                    end.rules.pause(now).unwrap();
                    host.forget(link);
                }
            }
        }
        host.stir();
        self.turn_soon(id);
    }

    /// Which connections lead to a seed.
    fn seeds(&self, id: usize) -> Vec<bool> {
        (0..self.hosts[id].links.len()).map(|link| self.is_seed(id, link)).collect()
    }

    pub fn is_seed(&self, id: usize, link: usize) -> bool {
        self.hosts[id].links[link].announced == self.scenario.pieces
    }

    /// Whether there are too few seeds to ask them immediately for a piece that a read waits for.
    fn spares_seeds(&self, id: usize) -> bool {
        let host = &self.hosts[id];
        let sent =
            |at: usize| host.links[at].received >= self.scenario.piece_length && host.good >> at & 1 == 1;
        let seeds = (0..host.links.len()).filter(|at| self.is_seed(id, *at) && sent(*at)).count();
        seeds as u32 * READERS_OF_A_SEED <= host.readers.count_ones()
    }

    /// The readers, and the peers that keep up.
    fn look(&mut self, id: usize) {
        let (now, blocks, pieces) = (self.now, self.scenario.blocks, self.scenario.pieces);
        let host = &mut self.hosts[id];
        if host.looked.is_some_and(|at| now - at < LIST_LASTS) {
            return;
        }
        host.looked = Some(now);
        (host.readers, host.good, host.senders) = (0, 0, 0);
        for (at, link) in host.links.iter().enumerate().filter(|(_, link)| link.open) {
            if link.announced < pieces && link.rules.reads(now).unwrap() {
                host.readers |= 1 << at;
            }
            if link.rules.keeps_up(link.requests(blocks), host.piece_time, now).unwrap() {
                host.good |= 1 << at;
                host.senders |= Links::from(link.received > 0) << at;
            }
        }
    }

    /// The pieces that the host wants now.
    pub fn window(&self, id: usize) -> Range<u32> {
        let host = &self.hosts[id];
        let length = match host.kind {
            Kind::Mount if host.head == 0 && host.opened < 16 * BLOCK => 0,
            // A run of so many bytes has a window of at most 128 times as many.
            Kind::Mount if host.head == 0 && host.opened < 32 * BLOCK => self.scenario.window.min(8),
            Kind::Mount if host.head == 0 && host.opened < 64 * BLOCK => self.scenario.window.min(16),
            Kind::Mount => self.scenario.window,
            _ => self.scenario.pieces,
        };
        host.head..host.head.saturating_add(length).min(self.scenario.pieces)
    }

    /// In the order in which they are read.
    fn wants(&self, id: usize) -> Vec<Want> {
        let host = &self.hosts[id];
        let waited = self.now - host.head_since;
        let missing = self.window(id).filter(|piece| !host.has[*piece as usize]);
        let want = |piece| {
            let behind = piece - host.head;
            let deadline = Time::from(behind) * NEAR_STEP;
            let overdue = (host.kind == Kind::Mount && behind <= NEAR_PIECES)
                .then(|| waited.checked_sub(deadline))
                .flatten();
            Want { piece, overdue: overdue.map(|time| (time / 1000) as u32) }
        };
        missing.take(MOST_WANTED).map(want).collect()
    }

    fn patience(&self, id: usize, piece: u32) -> u32 {
        let host = &self.hosts[id];
        let time = if host.piece_time == 0 { UNKNOWN_PIECE_TIME } else { host.piece_time };
        let random = trial_place(host.number, piece).unwrap();
        trial_patience(host.readers.count_ones(), time, random).unwrap() as u32
    }

    /// Looks at the claims of readers again, if they may have changed.
    fn list_claims(&mut self, id: usize) {
        let now = self.now;
        let host = &mut self.hosts[id];
        if host.claims_at.is_some_and(|at| now - at < CLAIMS_LAST) {
            return;
        }
        host.claims_at = Some(now);
        host.claims.clear();
        for (at, link) in host.links.iter_mut().enumerate() {
            if !link.claims || host.readers >> at & 1 == 0 {
                continue;
            }
            let counts = link.proven.is_some_and(|at| now - at < COUNTS_FOR);
            for piece in link.rules.claims(now).unwrap() {
                let later = host.ahead[piece as usize] >> at & 1 == 0;
                host.claims.push(Claim { piece, counts, later });
            }
        }
    }

    /// Fills the queue of requests to a peer.
    pub fn ask(&mut self, id: usize, link: usize) {
        self.look(id);
        let (now, blocks, chunks) = (self.now, self.scenario.blocks, self.scenario.chunks());
        let host = &self.hosts[id];
        let end = &host.links[link];
        let has_some = end.announced > 0 || !end.offers.is_empty();
        if !end.open || !has_some || self.window(id).is_empty() {
            return;
        }
        if host.readers == 0 {
            self.ask_alone(id, link);
            return;
        }
        let mut room = end.rules.room(end.flow(blocks), now).unwrap();
        if room == 0 {
            return;
        }
        let bit: Links = 1 << link;
        let untested = end.received == 0 && host.received > 0;
        let mut own: Vec<u32> = end.asked.iter().map(|(piece, _)| *piece).collect();
        own.dedup();
        let wants = self.wants(id);
        let available = |want: &&Want| {
            let progress = host.progress.get(&want.piece);
            match end.offers.get(&want.piece) {
                Some(offers) => {
                    progress.is_none_or(|progress| progress.free.iter().any(|chunk| offers >> chunk & 1 == 1))
                }
                None => {
                    host.holders[want.piece as usize] & bit != 0
                        && progress.is_none_or(|progress| !progress.free.is_empty())
                }
            }
        };
        let wants: Vec<&Want> = wants.iter().filter(available).collect();
        if wants.is_empty() {
            self.hosts[id].links[link].dry = true;
            if own.is_empty() {
                self.ask_twice(id, link);
            }
            return;
        }
        let waits = wants[0].overdue.is_some() && self.spares_seeds(id);
        let patience = if waits { self.patience(id, wants[0].piece) } else { 0 };
        self.list_claims(id);
        let suffice = self.hosts[id].supply.readers_suffice().unwrap();
        let seeds = self.seeds(id);
        let host = &self.hosts[id];
        let holders = if suffice { host.readers & host.senders } else { 0 };
        let many = host.readers.count_ones() >= MANY_READERS;
        let choice = ChosenPeer { seed: self.is_seed(id, link), untested, number: host.number, patience };
        let mut pieces: Vec<ChoicePiece> = wants
            .iter()
            .map(|&&Want { piece, overdue }| {
                let at = piece as usize;
                let from = |progress: &super::host::Progress| {
                    let counts = |one: usize| host.good >> one & 1 == 1 && (suffice || seeds[one]);
                    progress.asked.iter().any(|(_, one)| *one != link && counts(*one))
                };
                let begun = own.contains(&piece);
                let claims = |counts| {
                    let is = |one: &&Claim| one.piece == piece && one.counts == counts;
                    host.claims.iter().filter(is).any(|one| !(begun && one.later))
                };
                ChoicePiece {
                    piece,
                    begun,
                    requested: host.progress.get(&piece).is_some_and(from),
                    claimed: claims(true),
                    hinted: claims(false),
                    holders: (host.holders[at] & holders).count_ones(),
                    before: (host.ahead[at] & host.readers & !host.holders[at]).count_ones(),
                    overdue,
                }
            })
            .collect();
        let mut chosen = Vec::new();
        while room > 0 {
            let Some(at) = try_choose(choice, &pieces).unwrap() else { break };
            let ChoicePiece { piece, overdue, .. } = pieces.remove(at);
            let offers = self.hosts[id].links[link].offers.get(&piece).copied();
            let progress = self.hosts[id].begin(piece, chunks, now);
            let has = |chunk: &u16| offers.is_none_or(|offers| offers >> chunk & 1 == 1);
            let mut free: Vec<u16> = progress.free.iter().copied().filter(has).collect();
            // In random order, unless a read waits: readers of one piece have different parts for each other.
            if overdue.is_none() && (!choice.seed || many) {
                self.rng.shuffle(&mut free);
            }
            while room > 0 {
                let Some(chunk) = free.pop() else { break };
                progress.free.retain(|one| *one != chunk);
                progress.asked.push((chunk, link));
                room = room.saturating_sub(blocks as u32);
                chosen.push((piece, chunk));
            }
        }
        let end = &mut self.hosts[id].links[link];
        end.dry = room > 0;
        if chosen.is_empty() {
            return;
        }
        end.asked.extend(&chosen);
        self.at(now + self.half(), Event::Requests(id, link, chosen));
        if self.is_seed(id, link) {
            self.turn_soon(id);
        }
    }

    /// What libtorrent requests where this host is the only reader.
    fn ask_alone(&mut self, id: usize, link: usize) {
        let (now, chunks, blocks) = (self.now, self.scenario.chunks(), self.scenario.blocks);
        let host = &self.hosts[id];
        let end = &host.links[link];
        // The requests of a second, and some.
        let flow = end.flow(blocks);
        let queue = (64 + flow.rate / BLOCK) / blocks;
        let room = queue.saturating_sub(end.asked.len() as u64) as usize;
        let holds = |piece: &u32| {
            host.holders[*piece as usize] >> link & 1 == 1
                && host.progress.get(piece).is_none_or(|progress| !progress.free.is_empty())
        };
        let mut pieces: Vec<u32> =
            self.window(id).filter(|piece| !host.has[*piece as usize]).filter(holds).collect();
        if host.kind == Kind::Get {
            let number = host.number;
            let begun = |piece: &u32| host.progress.contains_key(piece);
            pieces.sort_by_key(|piece| (!begun(piece), trial_place(number, *piece).unwrap()));
        }
        let mut chosen = Vec::new();
        for piece in pieces {
            let progress = self.hosts[id].begin(piece, chunks, now);
            while chosen.len() < room
                && let Some(chunk) = progress.free.pop()
            {
                progress.asked.push((chunk, link));
                chosen.push((piece, chunk));
            }
        }
        if chosen.is_empty() {
            if room > 0 && self.hosts[id].links[link].asked.is_empty() {
                self.ask_twice(id, link);
            }
            return;
        }
        self.hosts[id].links[link].asked.extend(&chosen);
        self.at(now + self.half(), Event::Requests(id, link, chosen));
    }

    /// libtorrent requests one chunk from a second peer, where all wanted chunks are requested.
    fn ask_twice(&mut self, id: usize, link: usize) {
        let host = &mut self.hosts[id];
        let holders = &host.holders;
        let held = host.progress.iter_mut().filter(|(piece, _)| holders[**piece as usize] >> link & 1 == 1);
        for (piece, progress) in held {
            let times = |chunk: u16| progress.asked.iter().filter(|(one, _)| *one == chunk).count();
            let own = |chunk: u16| progress.asked.contains(&(chunk, link));
            let late = progress.asked.iter().map(|(chunk, _)| *chunk).filter(|chunk| !own(*chunk));
            if let Some(chunk) = late.min_by_key(|chunk| times(*chunk)) {
                progress.asked.push((chunk, link));
                host.links[link].asked.push((*piece, chunk));
                let piece = *piece;
                self.at(self.now + self.half(), Event::Requests(id, link, vec![(piece, chunk)]));
                return;
            }
        }
    }

    /// The first bytes of a stream: its reads have no window, and parts of the piece are requested.
    fn open_read(&mut self, id: usize) {
        let (now, chunks) = (self.now, self.scenario.chunks());
        let host = &mut self.hosts[id];
        let holders = host.holders[0];
        let late: Vec<usize> = host.begin(0, chunks, now).asked.iter().map(|(_, link)| *link).collect();
        if late.iter().any(|link| host.links[*link].open) {
            if now - host.head_since < LATE {
                return;
            }
            late.iter().for_each(|link| host.forget(*link));
        }
        // What is late is requested from another peer.
        let open = |link: &usize| host.links[*link].open && holders >> link & 1 == 1 && !late.contains(link);
        let links: Vec<usize> = (0..host.links.len()).filter(open).collect();
        // The peer that has sent most; any peer, if it was late or none has sent anything.
        let quickest = links.iter().filter(|link| host.links[**link].received > 0);
        let quickest = quickest.max_by_key(|link| host.links[**link].received).copied();
        let any = (!links.is_empty()).then(|| links[self.rng.usize(0..links.len())]);
        let link = quickest.filter(|_| late.is_empty()).or(any);
        let Some(link) = link else { return };
        host.head_since = now;
        let read = (8 * BLOCK / self.scenario.chunk()).max(1);
        let mut chosen = Vec::new();
        let progress = host.begin(0, chunks, now);
        while (chosen.len() as u64) < read
            && let Some(chunk) = progress.free.pop()
        {
            progress.asked.push((chunk, link));
            chosen.push((0, chunk));
        }
        host.links[link].asked.extend(&chosen);
        self.at(now + self.half(), Event::Requests(id, link, chosen));
    }

    /// Sends the pieces that this host fetches from seeds, if they have changed.
    fn send_claims(&mut self, id: usize) {
        let now = self.now;
        let seeds: Vec<usize> =
            (0..self.hosts[id].links.len()).filter(|link| self.is_seed(id, *link)).collect();
        let host = &mut self.hosts[id];
        let finished = |piece: &u32| host.progress.get(piece).is_some_and(|progress| progress.missing == 0);
        let mut pieces: Vec<u32> = host.claimed.iter().copied().filter(finished).collect();
        for link in seeds {
            for (piece, _) in &host.links[link].asked {
                if pieces.len() < MOST_CLAIMS && !pieces.contains(piece) {
                    pieces.push(*piece);
                }
            }
        }
        pieces.sort_unstable();
        host.messages = (host.messages + (now - host.messages_at) as f64 * 32e-6).min(64.0);
        host.messages_at = now;
        if pieces == host.claimed || host.messages < 1.0 {
            return;
        }
        host.messages -= 1.0;
        host.claimed = pieces.clone();
        self.at(now + self.half(), Event::Claims(id, pieces));
    }
}
