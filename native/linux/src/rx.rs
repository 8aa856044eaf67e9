// SPDX-License-Identifier: BSD-2-Clause
//! From the sockets to the TUN: receive many at once, open in place, write what belongs together in one piece.
//!
//! The order of checks, and what each packet counts as, are `dataplane/reference.py`'s.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use miragevpn_core::errors::Drop as Counter;
use miragevpn_core::framing::Unframed;
use miragevpn_core::inner::{OCC_MAGIC, OCC_MOST, Payload, classify};
use miragevpn_core::stream::{Impossible, Stream};
use miragevpn_core::table::Table;
use miragevpn_core::{Opener, mss};

use crate::deadlines::Deadlines;
use crate::delivery::Delivery;
use crate::directory::Directory;
use crate::events::{Event, Events};
use crate::gate::Gate;
use crate::link::{Link, Socket, is_gone, words};
use crate::pace::Turn;
use crate::peer::Rules;
use crate::sys::{self, Interest, MESSAGES, Received, Watch};
use crate::tun::Tun;
use crate::tx::Tx;

/// What one message may hold: a datagram, or several of one length.
const MESSAGE: usize = 65536;

const DATA_V1: u8 = 6;
const DATA_V2: u8 = 9;
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Dropped {
    pub(crate) replay: u64,
    pub(crate) auth: u64,
    pub(crate) other: u64,
    pub(crate) compressed: u64,
}

pub(crate) struct RxPeer {
    pub(crate) link: u64,
    pub(crate) endpoint: SocketAddr,
    pub(crate) rules: Rules,
    pub(crate) keys: [Option<Opener>; 8],
    pub(crate) restricted: bool,
    pub(crate) heard: Instant,
    pub(crate) silent_since: Instant,
    pub(crate) exited: bool,
    pub(crate) compression_told: bool,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) dropped: Dropped,
}

struct RxLink {
    link: Arc<Link>,
    stream: Stream,
}

pub(crate) struct Rx {
    pub(crate) watch: Arc<Watch>,
    events: Arc<Events>,
    tun: Option<Tun>,
    links: Table<u64, RxLink>,
    buffer: Vec<u8>,
    state: Peers,
}

/// All that a packet meets on its way; apart from the buffers that it lies in.
pub(crate) struct Peers {
    events: Arc<Events>,
    pub(crate) peers: Table<u32, RxPeer>,
    pub(crate) directory: Directory,
    among: bool, // what one peer sends to another is passed on
    /// Whether the other worker is to be woken, for what came to the TUN.
    pub(crate) unanswered: bool,
    /// Moves that the other worker has not heard of.
    moved: Vec<(u32, SocketAddr)>,
    passed: Vec<(u32, Range<usize>)>, // for other peers
    taken: usize,                     // bytes of inner packets in this turn
    delivery: Delivery,
    tun_error: Option<String>,
    deadlines: Deadlines, // of silences; what came meanwhile may have made one later
    pub(crate) dropped_unknown: u64,
}

impl Rx {
    pub(crate) fn new(watch: Arc<Watch>, events: Arc<Events>, among: bool) -> Self {
        let state = Peers {
            events: events.clone(),
            peers: Table::default(),
            directory: Directory::default(),
            among,
            unanswered: false,
            moved: Vec::new(),
            passed: Vec::new(),
            taken: 0,
            delivery: Delivery::new(),
            tun_error: None,
            deadlines: Deadlines::default(),
            dropped_unknown: 0,
        };
        Self { watch, events, tun: None, links: Table::default(), buffer: vec![0; MESSAGES * MESSAGE], state }
    }

    pub(crate) fn peers(&mut self) -> &mut Peers {
        &mut self.state
    }

    pub(crate) fn attach_tun(&mut self, tun: Tun) {
        self.state.delivery.attach(&tun);
        self.tun = Some(tun);
    }

    pub(crate) fn detach_tun(&mut self) {
        self.state.delivery.detach();
        self.tun = None;
    }

    pub(crate) fn attach_link(&mut self, link: Arc<Link>) -> io::Result<()> {
        self.watch.add(link.fd(), Interest::Read, link.number)?;
        self.links.insert(link.number, RxLink { link, stream: Stream::default() });
        Ok(())
    }

    pub(crate) fn detach_link(&mut self, number: u64) {
        if let Some(known) = self.links.remove(&number) {
            self.watch.remove(known.link.fd());
        }
    }

    /// Takes what is there.
    pub(crate) fn turn(&mut self, ready: &[u64], tx: &Gate<Tx>, now: Instant) -> Turn {
        let mut turn = Turn::default();
        self.state.taken = 0;
        for number in ready {
            let Some(known) = self.links.get_mut(number) else {
                continue;
            };
            let out = Out { tun: self.tun.as_ref(), tx, alone: ready.len() == 1 };
            let taken = match &known.link.socket {
                Socket::Udp { .. } => known.datagrams(&mut self.buffer, &mut self.state, out, now),
                Socket::Tcp(_) => known.frames(&mut self.state, out, now),
            };
            match taken {
                Ok(as_much_as_fits) => turn.behind |= as_much_as_fits,
                Err(reason) => {
                    self.watch.remove(known.link.fd());
                    known.link.fail(&self.events, &reason);
                }
            }
            if let Some(error) = self.state.tun_error.take() {
                self.detach_tun();
                self.events.push(Event::TunFailed(error));
            }
        }
        turn.bytes = self.state.taken;
        self.state.tick(now);
        turn.wait = self.state.deadlines.next().map(|at| at.saturating_duration_since(now));
        turn
    }
}

/// Whom a packet is for.
enum For {
    Tun,
    Peer(u32),
}

/// Where packets go.
#[derive(Clone, Copy)]
struct Out<'a> {
    tun: Option<&'a Tun>,
    tx: &'a Gate<Tx>,
    alone: bool, // no other link has anything in this turn
}

impl RxLink {
    /// Reads datagrams once, and says whether there were as many as fit; an ICMP error that was waiting at the socket is
    /// read like one, and ignored.
    fn datagrams(&mut self, buffer: &mut [u8], state: &mut Peers, out: Out<'_>, now: Instant) -> Result<bool, String> {
        let Socket::Udp { connected, .. } = &self.link.socket else {
            return Ok(false);
        };
        let mut messages = [Received::default(); MESSAGES];
        let got = match sys::receive(self.link.fd(), buffer, MESSAGE, !connected, &mut messages) {
            Ok(got) => got,
            Err(error) if is_gone(&error) => return Err(words(&error)),
            Err(_) => return Ok(false),
        };
        for (n, message) in messages[..got].iter().enumerate() {
            let (mut at, end) = (n * MESSAGE, n * MESSAGE + message.length.min(MESSAGE));
            let step = if message.segment == 0 { MESSAGE } else { message.segment };
            while at < end {
                let next = end.min(at + step);
                // Of a truncated message the last datagram is not whole; it fails authentication, like any other noise.
                state.receive(self.link.number, message.from, buffer, at..next, now);
                at = next;
            }
        }
        state.deliver(buffer, out, now);
        Ok(got == MESSAGES)
    }

    /// Reads a stream once, and takes the frames that are whole; says whether as much was there as fits.
    fn frames(&mut self, state: &mut Peers, out: Out<'_>, now: Instant) -> Result<bool, String> {
        let room = self.stream.room();
        let most = room.len();
        let full = match self.link.read(room) {
            Ok(0) => return Err("the peer closed the connection".to_owned()),
            Ok(length) => {
                self.stream.took(length);
                length == most
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(false);
            }
            Err(error) => return Err(words(&error)),
        };
        let ended = loop {
            match self.stream.cut() {
                Ok(Some(at)) => state.receive(self.link.number, None, self.stream.packets(), at, now),
                Ok(None) => break Ok(full),
                Err(Impossible(size)) => break Err(format!("frame of {size} bytes on a TCP stream")),
            }
        };
        state.deliver(self.stream.packets(), out, now);
        self.stream.rest();
        ended
    }
}

impl Peers {
    /// Takes the packet at `at` of `buffer`; if it holds one for the TUN, `delivery` has it.
    fn receive(&mut self, link: u64, from: Option<SocketAddr>, buffer: &mut [u8], at: Range<usize>, now: Instant) {
        let packet = &mut buffer[at.clone()];
        let Some(&first) = packet.first() else {
            return;
        };
        let opcode = first >> 3;
        if opcode != DATA_V1 && opcode != DATA_V2 {
            self.events.push(Event::Control { link, from, packet: packet.to_vec() });
            return;
        }
        let handle = self.handle_of(link, from, packet);
        let known = handle.and_then(|handle| Some((handle, self.peers.get_mut(&handle)?)));
        let Some((handle, peer)) = known.filter(|(_, peer)| peer.link == link) else {
            self.dropped_unknown += 1;
            return;
        };
        let moved = from.filter(|from| *from != peer.endpoint);
        if let Some(to) = moved {
            // With several peers on the link only DATA_V2 says whose it is.
            let named = opcode == DATA_V2 || self.directory.sole(link).is_some();
            let may = peer.rules.floats && named && to.port() != 0;
            if !may || self.directory.at(link, to).is_some() {
                self.dropped_unknown += 1;
                return;
            }
        }
        let key_id = first & 7;
        let Some(opener) = &mut peer.keys[usize::from(key_id)] else {
            peer.dropped.other += 1;
            return;
        };
        opener.at(now);
        let opened = opener.open(packet);
        if opener.usage().take_exhausted() {
            self.events.push(Event::KeyExhausted { peer: handle, key_id });
        }
        let payload = match opened {
            Ok(payload) => payload,
            Err(error) => {
                match error.counter() {
                    Counter::Replay => peer.dropped.replay += 1,
                    Counter::Auth => peer.dropped.auth += 1,
                    Counter::Other => peer.dropped.other += 1,
                }
                return;
            }
        };
        peer.heard = now;
        if let Some(to) = moved {
            self.directory.moved(handle, link, peer.endpoint, to);
            peer.endpoint = to;
            self.moved.push((handle, to));
            self.events.moved(handle, to);
        }
        if opener.usage().take_in_use() {
            self.events.push(Event::KeyInUse { peer: handle, key_id });
        }
        match peer.rules.framing.unwrap(packet, payload) {
            Ok(inner) => {
                let inner = at.start + inner.start..at.start + inner.end;
                match self.take(handle, &mut buffer[inner.clone()], at.len()) {
                    Some(For::Tun) => self.delivery.push(buffer, inner),
                    Some(For::Peer(other)) => self.passed.push((other, inner)),
                    None => {}
                }
            }
            Err(Unframed::Malformed) => peer.dropped.other += 1,
            Err(Unframed::Compressed) => {
                peer.dropped.compressed += 1;
                if !std::mem::replace(&mut peer.compression_told, true) {
                    self.events.push(Event::Compressed(handle));
                }
            }
        }
    }

    /// Whose the packet claims to be.
    fn handle_of(&self, link: u64, from: Option<SocketAddr>, packet: &[u8]) -> Option<u32> {
        match self.directory.sole(link) {
            None if packet[0] >> 3 == DATA_V2 => {
                let id = packet.get(1..4)?;
                Some(u32::from_be_bytes([0, id[0], id[1], id[2]]))
            }
            None => self.directory.at(link, from?),
            sole => sole,
        }
    }

    /// Tells whom the authentic `inner` is for, which came in a packet of `size` bytes, if it goes further.
    fn take(&mut self, handle: u32, inner: &mut [u8], size: usize) -> Option<For> {
        let peer = self.peers.get_mut(&handle)?;
        let (source, destination) = match classify(inner) {
            Payload::Ip { source, destination } => (source, destination),
            Payload::Exit if !peer.exited => {
                peer.exited = true; // repeated farewells are one event
                self.events.push(Event::PeerExited(handle));
                return None;
            }
            Payload::Occ => {
                let message = inner[OCC_MAGIC.len()..].iter().take(OCC_MOST).copied().collect();
                self.events.push(Event::Occ { peer: handle, message, size });
                return None;
            }
            // A ping has done its work by being authentic.
            Payload::Ping | Payload::Exit => return None,
            Payload::Unknown => {
                peer.dropped.other += 1;
                return None;
            }
        };
        let mut other = None;
        if peer.restricted {
            other = self.directory.inner.find(destination);
            if self.directory.inner.find(source) != Some(handle) || (other.is_some() && !self.among) {
                peer.dropped.other += 1;
                return None;
            }
        }
        peer.packets += 1;
        peer.bytes += inner.len() as u64;
        self.taken += inner.len();
        mss::clamp(inner, peer.rules.mss4, peer.rules.mss6);
        Some(other.map_or(For::Tun, For::Peer))
    }

    /// Writes what lies in `buffer` for the TUN, and passes on what is for other peers.
    fn deliver(&mut self, buffer: &mut [u8], out: Out<'_>, now: Instant) {
        if !self.moved.is_empty() {
            // Before anything that came from there is answered.
            let mut sender = out.tx.enter();
            for (handle, to) in self.moved.drain(..) {
                sender.moved(handle, to);
            }
        }
        if !self.passed.is_empty() {
            // The sending worker never waits for this one, and has its turns in bounded time.
            out.tx.enter().pass_on(buffer, &self.passed, now);
            self.passed.clear();
        }
        if let Some(tun) = out.tun {
            // What a single packet is answered with at once (a ping, a handshake) does not wait until the sending worker
            // is awake, which takes as long as all the rest together. Of more there is too much to do for one thread.
            let mut sender = if out.alone && self.delivery.is_single() { out.tx.try_enter() } else { None };
            if let Some(tx) = &mut sender {
                tx.hold();
            }
            if let Err(error) = self.delivery.write(buffer, tun) {
                self.tun_error = Some(words(&error));
            }
            if let Some(mut tx) = sender {
                self.unanswered |= tx.answer(now);
            }
            if let Some(what) = self.delivery.take_refusal() {
                self.events.push(Event::TunRefused(what));
            }
        }
        self.delivery.clear();
    }

    /// When the peer's silence is to be told may have become earlier, or it is gone.
    pub(crate) fn schedule(&mut self, handle: u32) {
        self.deadlines.set(handle, self.peers.get(&handle).and_then(RxPeer::silent_at));
    }

    fn tick(&mut self, now: Instant) {
        for handle in self.deadlines.take_due(now) {
            if let Some(peer) = self.peers.get_mut(&handle) {
                if peer.silent_at().is_some_and(|at| now >= at) {
                    peer.silent_since = now;
                    self.events.push(Event::PeerSilent(handle));
                }
            }
            self.schedule(handle);
        }
    }
}

impl RxPeer {
    fn silent_at(&self) -> Option<Instant> {
        let silence = self.rules.silence?;
        self.keys.iter().any(Option::is_some).then(|| self.heard.max(self.silent_since) + silence)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn a_turn_that_ended_at_its_bound_says_so() {
        let (watch, events) = (Arc::new(Watch::new().unwrap()), Arc::new(Events::new().unwrap()));
        let tx = Gate::new(Tx::new(watch.clone(), events.clone()));
        let mut rx = Rx::new(watch, events, false);
        let (here, there) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        for _ in 0..MESSAGES + 1 {
            there.send_to(&[DATA_V2 << 3], here.local_addr().unwrap()).unwrap();
        }
        rx.attach_link(Arc::new(Link::new(1, OwnedFd::from(here), false, false))).unwrap();
        for left in [true, false] {
            assert_eq!(rx.turn(&[1], &tx, Instant::now()).behind, left);
        }
        assert_eq!(rx.state.dropped_unknown, MESSAGES as u64 + 1);
    }
}
