// SPDX-License-Identifier: BSD-2-Clause
//! From the TUN to the sockets: cut, seal in place, send many at once. One worker does nothing else.
//!
//! Sealed packets lie one behind the other in an arena, so that a row of them is one buffer for the kernel. All that is
//! at the TUN is read before a large packet is sealed, so that others go ahead of it (`backlog`). While the socket takes
//! no more the TUN is not read, and its queue fills, as a full interface's would; with several connections that would
//! let one slow peer stop the others: what is for it is dropped instead.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use miragevpn_core::framing::Framing;
use miragevpn_core::inner::{PING, addresses};
use miragevpn_core::routes::Owners;
use miragevpn_core::segment::{Prepared, Segments, VNET_LEN, VnetHeader, prepare};
use miragevpn_core::stream::{FRAME_HEADER, MAX_FRAME};
use miragevpn_core::table::Table;
use miragevpn_core::{SealError, Sealer, mss};

use crate::backlog::{Backlog, Flow, Waiting};
use crate::deadlines::Deadlines;
use crate::events::{Event, Events};
use crate::link::{Link, words};
use crate::outlet::{Outlet, Sealed};
use crate::pace::Turn;
use crate::peer::Rules;
use crate::queue::Gauge;
use crate::sys::{Interest, Watch};
use crate::tun::Tun;

/// What a TUN gives in one read: a packet of 64 KiB and its header.
const LARGEST_READ: usize = 65536 + VNET_LEN;
/// Most that one packet may grow: header, tag, length in front; padding and initialisation vector of CBC.
const MAX_OVERHEAD: usize = 192;
const ARENA: usize = 320 * 1024;
/// The arena is sent when this much is in it.
const ENOUGH: usize = 128 * 1024;
/// What waits is copied up to this size; of a larger packet the whole buffer waits.
const COPIED: usize = 16 * 1024;

/// Who sends what the TUN gives.
#[derive(Clone, Copy, PartialEq)]
enum Hand {
    /// The worker whose business it is.
    Worker,
    /// The receiving one, which has something else to do.
    Receiver,
}

impl Hand {
    /// Reads of the TUN before others have their turn.
    const fn reads(self) -> usize {
        match self {
            Self::Worker => 128,
            Self::Receiver => 2,
        }
    }

    /// Segments of a packet that it seals; a sender of tiny ones makes thousands.
    const fn segments(self) -> usize {
        match self {
            Self::Worker => usize::MAX,
            Self::Receiver => 64,
        }
    }
}

/// What was read from the TUN in one go.
#[derive(Default)]
struct Reads {
    count: usize,
    bytes: usize,
    emptied: bool,
}

/// Names of what is watched, above all links' numbers.
pub(crate) const BELL: u64 = u64::MAX;
pub(crate) const TUN: u64 = u64::MAX - 1;

pub(crate) struct TxKey {
    pub(crate) id: u8,
    pub(crate) sealer: Sealer,
}

pub(crate) struct TxPeer {
    pub(crate) link: u64,
    pub(crate) peer_id: u32,
    pub(crate) endpoint: SocketAddr,
    pub(crate) rules: Rules,
    pub(crate) keys: Vec<TxKey>,
    pub(crate) sending: Option<u8>,
    pub(crate) sent: Instant,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) dropped_other: u64,
}

pub(crate) struct Tx {
    pub(crate) watch: Arc<Watch>,
    events: Arc<Events>,
    tun: Option<Tun>,
    gauge: Gauge,
    reading: bool, // the TUN is watched
    held: bool,    // the receiving worker reads it in a moment
    links: Table<u64, Outlet>,
    pub(crate) peers: Table<u32, TxPeer>,
    pub(crate) everything: Option<u32>,
    pub(crate) inner: Owners,
    packet: Vec<u8>,
    backlog: Backlog,
    arena: Vec<u8>,
    filled: usize,
    sealed: Vec<Sealed>,
    next: usize,          // the first of `sealed` that was not sent
    waiting: bool,        // the socket of that one took no more
    deadlines: Deadlines, // of pings; what was sent meanwhile may have made one later
    pub(crate) dropped_full: u64,
}

impl Tx {
    pub(crate) fn new(watch: Arc<Watch>, events: Arc<Events>) -> Self {
        Self {
            watch,
            events,
            tun: None,
            gauge: Gauge::new(Instant::now()),
            reading: false,
            held: false,
            links: Table::default(),
            peers: Table::default(),
            everything: None,
            inner: Owners::default(),
            packet: vec![0; LARGEST_READ],
            backlog: Backlog::default(),
            arena: vec![0; ARENA],
            filled: 0,
            sealed: Vec::new(),
            next: 0,
            waiting: false,
            deadlines: Deadlines::default(),
            dropped_full: 0,
        }
    }

    // --- what the owner does

    pub(crate) fn attach_tun(&mut self, tun: Tun) {
        self.detach_tun();
        self.tun = Some(tun);
        self.read_or_wait();
    }

    pub(crate) fn detach_tun(&mut self) {
        if let Some(tun) = self.tun.take() {
            self.watch.remove(tun.fd());
            tun.release();
        }
        self.reading = false;
        self.backlog.clear();
    }

    pub(crate) fn attach_link(&mut self, link: Arc<Link>) {
        let number = link.number;
        self.links.insert(number, Outlet::new(link));
    }

    pub(crate) fn has_link(&self, number: u64) -> bool {
        self.links.contains_key(&number)
    }

    pub(crate) fn detach_link(&mut self, number: u64) {
        if let Some(known) = self.links.remove(&number) {
            self.watch.remove(known.link.fd());
            if !known.backlog.is_empty() && !known.link.has_failed() {
                let _ = known.link.write(&known.backlog); // what it takes at once
            }
        }
        self.flush();
        self.read_or_wait();
    }

    /// Sends a control packet, which waits only behind what is in the socket's way already.
    pub(crate) fn control(&mut self, number: u64, to: SocketAddr, packet: &[u8]) {
        let Some(known) = self.links.get_mut(&number) else {
            return;
        };
        if known.link.has_failed() || packet.len() > MAX_FRAME {
            return;
        }
        known.control(to, packet, &self.events);
        self.watch_blocked(number);
        self.read_or_wait();
    }

    /// Seals and sends what is not IP; nothing happens without a key.
    pub(crate) fn message(&mut self, handle: u32, payload: &[u8], now: Instant) {
        if payload.is_empty() {
            return;
        }
        self.make_room();
        if let Some(peer) = self.peers.get_mut(&handle) {
            let Some(place) = Place::of(peer, &self.links) else {
                return;
            };
            if ARENA - self.filled < payload.len() + MAX_OVERHEAD {
                return; // nothing goes out at present
            }
            let at = self.filled + place.before + place.framing.room(payload[0]);
            self.arena[at..at + payload.len()].copy_from_slice(payload);
            self.seal(handle, &place, payload.len(), payload[0], now);
        }
        self.flush();
    }

    /// The peer is at `to` from now on.
    pub(crate) fn moved(&mut self, handle: u32, to: SocketAddr) {
        if let Some(peer) = self.peers.get_mut(&handle) {
            peer.endpoint = to;
        }
    }

    /// When the peer wants its next ping may have become earlier, or it is gone.
    pub(crate) fn schedule(&mut self, handle: u32) {
        self.deadlines.set(handle, self.peers.get(&handle).and_then(TxPeer::ping_due));
    }

    // --- the worker's turn

    /// Does what is to be done now.
    pub(crate) fn turn(&mut self, ready: &[u64], now: Instant) -> Turn {
        for &name in ready {
            if name < TUN {
                self.writable(name);
            }
        }
        let mut turn = self.pump(now, Hand::Worker);
        self.tick(now);
        turn.wait = self.deadlines.next().map(|at| at.saturating_duration_since(now));
        turn
    }

    fn tick(&mut self, now: Instant) {
        for handle in self.deadlines.take_due(now) {
            if self.peers.get(&handle).and_then(TxPeer::ping_due).is_some_and(|due| now >= due) {
                self.message(handle, &PING, now);
                if let Some(peer) = self.peers.get_mut(&handle) {
                    peer.sent = now; // even if it was lost: the next one has its time
                }
            }
            self.schedule(handle);
        }
    }

    /// Whether something sealed waits for its socket, or the only connection takes no more.
    fn stuck(&self) -> bool {
        self.waiting || (self.links.len() == 1 && self.links.values().all(|known| known.blocked))
    }

    /// Watches the TUN exactly as long as there is somewhere to put what it gives.
    fn read_or_wait(&mut self) {
        let wanted = self.tun.is_some() && !self.stuck() && !self.held;
        if let (Some(tun), true) = (&self.tun, wanted != self.reading) {
            if wanted {
                if let Err(error) = self.watch.add(tun.fd(), Interest::Read, TUN) {
                    self.events.push(Event::TunFailed(words(&error)));
                }
            } else {
                self.watch.remove(tun.fd());
            }
            self.reading = wanted;
        }
    }

    /// Lets the worker sleep whatever comes to the TUN, until [`Self::answer`]. The caller keeps it locked meanwhile.
    pub(crate) fn hold(&mut self) {
        self.held = true;
        self.read_or_wait();
    }

    /// Sends in the worker's place what came to the TUN since [`Self::hold`], a little at the most; true if something is
    /// left for it.
    pub(crate) fn answer(&mut self, now: Instant) -> bool {
        self.held = false;
        if self.backlog.is_empty() {
            self.pump(now, Hand::Receiver);
        } else {
            self.read_or_wait(); // it has its turn at once, or its socket takes nothing
        }
        !self.backlog.is_empty() && !self.stuck()
    }

    /// Sends what the TUN gives.
    fn pump(&mut self, now: Instant, hand: Hand) -> Turn {
        let mut reads = Reads::default();
        while !self.stuck() {
            let sealed = self.sealed.len();
            self.read_all(&mut reads, hand.reads(), now);
            let Some(waiting) = self.backlog.pop() else {
                break;
            };
            if waiting.segments.as_ref().is_some_and(|segments| segments.left() > hand.segments()) {
                self.backlog.put_back(waiting);
                break;
            }
            if self.sealed.len() > sealed {
                self.flush(); // they went ahead
            }
            if let Some(rest) = if self.stuck() { Some(waiting) } else { self.seal_waiting(waiting, now) } {
                self.backlog.put_back(rest);
                self.flush();
            } else if self.filled >= ENOUGH {
                self.flush();
            }
        }
        let behind = reads.count == hand.reads() && !reads.emptied && !self.stuck();
        self.flush();
        self.read_or_wait();
        // Changing its length may take a moment, which the worker alone has.
        let fitting = if hand == Hand::Worker { self.gauge.length(now) } else { None };
        if let (Some(tun), Some(wanted)) = (&mut self.tun, fitting) {
            tun.fit_queue(wanted, reads.count, reads.emptied);
        }
        Turn { bytes: reads.bytes, behind, wait: None }
    }

    /// Reads what is there, `most` packets together with those of `reads`.
    fn read_all(&mut self, reads: &mut Reads, most: usize, now: Instant) {
        reads.emptied = false;
        while reads.count < most {
            match self.tun.as_ref().map(|tun| (tun.vnet, tun.read(&mut self.packet))) {
                None => return,
                Some((vnet, Ok(length))) => {
                    reads.count += 1;
                    reads.bytes += length;
                    self.gauge.note(length);
                    self.take(vnet, length, now);
                }
                Some((_, Err(error))) if error.kind() == ErrorKind::Interrupted => {}
                Some((_, Err(error))) if error.kind() == ErrorKind::WouldBlock => {
                    reads.emptied = true;
                    return;
                }
                Some((_, Err(error))) => {
                    self.detach_tun();
                    self.events.push(Event::TunFailed(words(&error)));
                    return;
                }
            }
            if self.filled >= ENOUGH {
                self.flush();
                if self.stuck() {
                    return;
                }
            }
        }
    }

    /// Takes what was read from the TUN into `self.packet`: seals it, or has it wait for its turn.
    fn take(&mut self, vnet: bool, length: usize, now: Instant) {
        let start = if vnet { VNET_LEN } else { 0 };
        let Some((before, packet)) = self.packet[..length].split_at_mut_checked(start) else {
            return;
        };
        let header = <&[u8; VNET_LEN]>::try_from(&*before).map_or_else(|_| VnetHeader::default(), VnetHeader::read);
        let handle = match self.everything {
            Some(handle) => handle,
            None => match addresses(packet).and_then(|(_, to)| self.inner.find(to)) {
                Some(handle) => handle,
                None => return,
            },
        };
        let Some(peer) = self.peers.get_mut(&handle) else {
            return;
        };
        let Some(place) = Place::of(peer, &self.links) else {
            peer.dropped_other += 1;
            return;
        };
        let segments = match prepare(header, packet) {
            Ok(Prepared::Segments(segments)) => Some(segments),
            Ok(Prepared::Whole) if !packet.is_empty() => None,
            _ => {
                peer.dropped_other += 1;
                return;
            }
        };
        if segments.is_none() {
            mss::clamp(packet, peer.rules.mss4, peer.rules.mss6);
            if self.backlog.is_empty() || !self.backlog.holds(&Flow::of(packet)) {
                let bytes = std::mem::take(&mut self.packet);
                self.seal_whole(handle, &place, &bytes[start..length], now);
                self.packet = bytes;
                return;
            }
        }
        self.put_behind(handle, segments, start..length);
    }

    /// Has the packet at `at` of `self.packet` wait behind the others.
    fn put_behind(&mut self, peer: u32, segments: Option<Segments>, at: Range<usize>) {
        if self.backlog.is_full() {
            self.dropped_full += segments.map_or(1, |segments| segments.left()) as u64;
            return;
        }
        let flow = Flow::of(&self.packet[at.clone()]);
        let bytes = if at.end > COPIED {
            let empty = self.backlog.buffer(LARGEST_READ);
            std::mem::replace(&mut self.packet, empty)
        } else {
            self.packet[..at.end].to_vec()
        };
        self.backlog.push(Waiting { bytes, at, segments, peer, flow });
    }

    /// Seals a packet that waited; gives it back if the arena is full before its end.
    fn seal_waiting(&mut self, mut waiting: Waiting, now: Instant) -> Option<Waiting> {
        let handle = waiting.peer;
        let packet = &waiting.bytes[waiting.at.clone()];
        let Some(place) = self.peers.get(&handle).and_then(|peer| Place::of(peer, &self.links)) else {
            // The peer or its key is gone meanwhile.
            self.dropped_full += waiting.segments.map_or(1, |segments| segments.left()) as u64;
            return None;
        };
        match &mut waiting.segments {
            None => self.seal_whole(handle, &place, packet, now),
            Some(segments) => self.seal_segments(handle, &place, segments, packet, now),
        }
        if waiting.segments.as_ref().is_some_and(|segments| !segments.is_done()) && self.filled > 0 {
            return Some(waiting);
        }
        self.backlog.recycle(waiting.bytes, LARGEST_READ);
        None
    }

    /// Seals a packet as it is. There is room: the arena is sent long before it is full.
    fn seal_whole(&mut self, handle: u32, place: &Place, packet: &[u8], now: Instant) {
        self.count(handle, packet.len());
        let at = self.filled + place.before + place.framing.room(packet[0]);
        self.arena[at..at + packet.len()].copy_from_slice(packet);
        self.seal(handle, place, packet.len(), packet[0], now);
    }

    /// Seals segments of `packet` until it is done, the arena is full, or the key seals no more.
    fn seal_segments(&mut self, handle: u32, place: &Place, segments: &mut Segments, packet: &[u8], now: Instant) {
        let needed = segments.longest() + MAX_OVERHEAD;
        while ARENA - self.filled >= needed {
            let room = &mut self.arena[self.filled + place.before + place.framing.room(packet[0])..];
            let Some(size) = segments.next_into(packet, room) else {
                return;
            };
            self.count(handle, size);
            if !self.seal(handle, place, size, packet[0], now) {
                self.dropped_full += segments.left() as u64;
                segments.end();
            }
        }
    }

    /// Seals and sends what peers sent to other peers: for each packet whom it is for, and where in `buffer` it lies.
    pub(crate) fn pass_on(&mut self, buffer: &mut [u8], packets: &[(u32, Range<usize>)], now: Instant) {
        for (handle, at) in packets {
            self.make_room();
            let Some(peer) = self.peers.get_mut(handle) else {
                continue;
            };
            let packet = &mut buffer[at.clone()];
            let (Some(place), Some(&first)) = (Place::of(peer, &self.links), packet.first()) else {
                peer.dropped_other += 1;
                continue;
            };
            if ARENA - self.filled < packet.len() + MAX_OVERHEAD {
                self.dropped_full += 1; // the sockets take nothing at present
                continue;
            }
            mss::clamp(packet, peer.rules.mss4, peer.rules.mss6);
            let begin = self.filled + place.before + place.framing.room(first);
            self.arena[begin..begin + packet.len()].copy_from_slice(packet);
            self.count(*handle, at.len());
            self.seal(*handle, &place, at.len(), first, now);
        }
        self.flush();
        self.read_or_wait();
    }

    /// Frames and seals the packet of `size` bytes, beginning with `first`, that lies at `place` of the arena's free part.
    ///
    /// False if that cannot be done, and will not be possible for the next one either.
    fn seal(&mut self, handle: u32, place: &Place, size: usize, first: u8, now: Instant) -> bool {
        let Some(peer) = self.peers.get_mut(&handle) else {
            return false;
        };
        let Some(key) = peer.keys.get_mut(place.key) else {
            return false;
        };
        let begin = self.filled + place.frame;
        let at = self.filled + place.before + place.framing.room(first);
        let size = place.framing.wrap(&mut self.arena, at..at + size).len();
        let sealed = key.sealer.seal(&mut self.arena[begin..], size);
        if key.sealer.usage().take_exhausted() {
            self.events.push(Event::KeyExhausted { peer: handle, key_id: key.id });
        }
        match sealed {
            Ok(length) if place.frame > 0 && length > MAX_FRAME => {
                peer.dropped_other += 1;
                false
            }
            Ok(length) => {
                let end = begin + length;
                if place.frame > 0 {
                    self.arena[self.filled..begin].copy_from_slice(&(length as u16).to_be_bytes());
                }
                peer.sent = now;
                self.sealed.push(Sealed { at: self.filled..end, link: peer.link, to: peer.endpoint });
                self.filled = end;
                true
            }
            Err(error) => {
                peer.dropped_other += 1;
                if error == SealError::Spent {
                    peer.sending = None;
                }
                false
            }
        }
    }

    /// Counts an inner packet that is about to be sealed.
    fn count(&mut self, handle: u32, size: usize) {
        if let Some(peer) = self.peers.get_mut(&handle) {
            peer.packets += 1;
            peer.bytes += size as u64;
        }
    }

    // --- sending

    fn make_room(&mut self) {
        if self.filled >= ENOUGH {
            self.flush();
        }
    }

    /// Sends what is sealed, as far as it goes.
    fn flush(&mut self) {
        self.waiting = true; // if this returns before the end
        while self.next < self.sealed.len() {
            let number = self.sealed[self.next].link;
            let rest = &self.sealed[self.next..];
            let Some(known) = self.links.get_mut(&number).filter(|known| !known.link.has_failed()) else {
                let lost = rest.iter().take_while(|sealed| sealed.link == number).count();
                self.dropped_full += lost as u64;
                self.next += lost;
                continue;
            };
            if known.link.is_stream() {
                let count = rest.iter().take_while(|sealed| sealed.link == number).count();
                if known.backlog.is_empty() {
                    known.write(&self.arena[rest[0].at.start..rest[count - 1].at.end], &self.events);
                } else {
                    self.dropped_full += count as u64;
                }
                self.next += count;
            } else {
                let (done, lost) = known.send(rest, &self.arena, &self.events);
                self.next += done;
                self.dropped_full += lost;
                if known.blocked {
                    self.watch_blocked(number);
                    return;
                }
            }
            self.watch_blocked(number);
        }
        self.sealed.clear();
        self.next = 0;
        self.filled = 0;
        self.waiting = false;
    }

    /// Has us woken when the link takes something again.
    fn watch_blocked(&mut self, number: u64) {
        if let Some(known) = self.links.get(&number) {
            if known.link.has_failed() {
                self.watch.remove(known.link.fd());
            } else if known.blocked {
                let _ = self.watch.add(known.link.fd(), Interest::Write, number); // it may be watched already
            }
        }
    }

    fn writable(&mut self, number: u64) {
        let Some(known) = self.links.get_mut(&number) else {
            return;
        };
        known.blocked = false;
        if !known.backlog.is_empty() {
            let waiting = std::mem::take(&mut known.backlog);
            known.write(&waiting, &self.events);
        }
        if !known.blocked || known.link.has_failed() {
            self.watch.remove(known.link.fd());
        }
        self.flush();
    }
}

/// Where in the free part of the arena a payload goes.
struct Place {
    key: usize,    // which of the peer's keys seals it
    frame: usize,  // bytes for the length of the frame
    before: usize, // bytes for that and all that the key puts in front
    framing: Framing,
}

impl Place {
    fn of(peer: &TxPeer, links: &Table<u64, Outlet>) -> Option<Self> {
        let sending = peer.sending?;
        let key = peer.keys.iter().position(|key| key.id == sending)?;
        let frame = if links.get(&peer.link)?.link.is_stream() { FRAME_HEADER } else { 0 };
        Some(Self { key, frame, before: frame + peer.keys[key].sealer.head(), framing: peer.rules.framing })
    }
}

impl TxPeer {
    fn ping_due(&self) -> Option<Instant> {
        let interval = self.rules.ping?;
        self.sending.map(|_| self.sent + interval)
    }

    /// Seals with `id` no longer.
    pub(crate) fn stop_sending(&mut self, id: u8) {
        if self.sending == Some(id) {
            self.sending = None;
        }
    }
}
