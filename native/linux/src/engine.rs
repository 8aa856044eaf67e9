// SPDX-License-Identifier: BSD-2-Clause
//! The data plane as its owner sees it: two workers, and calls that change what they do.
//!
//! A call changes one direction after the other, each while its worker rests; none of them waits for the network. A
//! worker that meets a bug ends, says so, and nothing moves any more: what it would have sent stays where it is.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{Builder, JoinHandle, sleep, yield_now};
use std::time::{Duration, Instant};

use miragevpn_core::inner::Address;
use miragevpn_core::routes::Prefix;
use miragevpn_core::{KeySpec, NO_PEER_ID, make_key};

use crate::events::{Event, Events};
use crate::gate::Gate;
use crate::link::Link;
use crate::pace::{Pace, Turn};
use crate::peer::Rules;
use crate::rx::{Dropped, Rx, RxPeer};
use crate::sys::{self, Bell, Interest, Watch};
use crate::tun::Tun;
use crate::tx::{BELL, Tx, TxKey, TxPeer};

/// The active key, the next one, and the lame duck.
const MAX_KEYS: usize = 3;

/// A call that its maker should not have made.
#[derive(Debug)]
pub enum Refusal {
    /// It contradicts what was said before.
    Misuse(String),
    /// The system does not give what is needed.
    System(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Totals of a peer, as in `dataplane/interface.py`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Bytes of inner packets received.
    pub bytes_in: u64,
    /// Bytes of inner packets sent.
    pub bytes_out: u64,
    /// Inner packets received.
    pub packets_in: u64,
    /// Inner packets sent.
    pub packets_out: u64,
    /// Seen before, or too old to tell.
    pub dropped_replay: u64,
    /// Not authentic.
    pub dropped_auth: u64,
    /// Whatever else.
    pub dropped_other: u64,
    /// Compressed, which nobody here unpacks.
    pub dropped_compressed: u64,
}

struct Shared {
    tx: Gate<Tx>,
    rx: Gate<Rx>,
    tx_bell: Bell,
    rx_bell: Bell,
    tx_watch: Arc<Watch>,
    rx_watch: Arc<Watch>,
    events: Arc<Events>,
    stop: AtomicBool,
}

/// The data plane.
pub struct Engine {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    server: bool,
}

impl Engine {
    /// Starts the workers. `server`: a peer sends and receives nothing until it has addresses. `among`: what one peer
    /// sends to another is passed on.
    ///
    /// # Errors
    /// If the system has no descriptors or threads for it.
    pub fn start(server: bool, among: bool) -> Result<Self, Refusal> {
        let (tx_watch, rx_watch) = (Arc::new(Watch::new()?), Arc::new(Watch::new()?));
        let (tx_bell, rx_bell) = (Bell::new()?, Bell::new()?);
        tx_watch.add(tx_bell.fd(), Interest::Read, BELL)?;
        rx_watch.add(rx_bell.fd(), Interest::Read, BELL)?;
        let events = Arc::new(Events::new()?);
        let shared = Arc::new(Shared {
            tx: Gate::new(Tx::new(tx_watch.clone(), events.clone())),
            rx: Gate::new(Rx::new(rx_watch.clone(), events.clone(), among)),
            tx_bell,
            rx_bell,
            tx_watch,
            rx_watch,
            events,
            stop: AtomicBool::new(false),
        });
        let mut engine = Self { shared, workers: Vec::new(), server };
        for (name, work) in [("miragevpn-tx", send as fn(&Shared) -> io::Result<()>), ("miragevpn-rx", receive)] {
            let shared = engine.shared.clone();
            let worker = Builder::new().name(name.to_owned()).spawn(move || {
                contained(name, &shared.events, || work(&shared));
            })?;
            engine.workers.push(worker);
        }
        Ok(engine)
    }

    /// Ends the workers, forgets all keys, closes the links' sockets.
    pub fn close(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.tx_bell.ring();
        self.shared.rx_bell.ring();
        for worker in self.workers.drain(..) {
            let _ = worker.join(); // a worker's panic was told as an event
        }
    }

    /// Readable while there are events.
    #[must_use]
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.shared.events.bell().fd()
    }

    /// What happened since the last call, in order.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.shared.events.take()
    }

    // --- TUN and links

    /// Reads and writes IP packets at `fd`, which stays its owner's.
    ///
    /// # Errors
    /// If it cannot be used; returns what of it can be used otherwise.
    pub fn attach_tun(&self, fd: RawFd) -> Result<String, Refusal> {
        let tun = Tun::of(fd)?;
        let known = tun.describe();
        self.shared.rx.enter().attach_tun(tun.again()?);
        self.shared.tx.enter().attach_tun(tun);
        Ok(known)
    }

    /// Lets go of the TUN.
    pub fn detach_tun(&self) {
        self.shared.tx.enter().detach_tun();
        self.shared.rx.enter().detach_tun();
    }

    /// Takes over the descriptor `fd` of a socket that its owner has let go of.
    ///
    /// # Errors
    /// If there is such a link, or no such descriptor.
    pub fn attach_link(&self, number: u64, fd: RawFd, stream: bool, connected: bool) -> Result<(), Refusal> {
        let fd = sys::adopt(fd)?;
        if self.shared.tx.enter().has_link(number) {
            return Err(Refusal::Misuse(format!("link {number} is there already")));
        }
        let link = Arc::new(Link::new(number, fd, stream, connected));
        self.shared.tx.enter().attach_link(link.clone());
        self.shared.tx_bell.ring(); // what waited for the only link there was may have to go by another
        self.shared.rx.enter().attach_link(link)?;
        Ok(())
    }

    /// Sends what the socket takes at once, closes it.
    ///
    /// # Errors
    /// If there is no such link.
    pub fn detach_link(&self, number: u64) -> Result<(), Refusal> {
        self.known_link(number)?;
        self.shared.rx.enter().detach_link(number);
        self.shared.tx.enter().detach_link(number);
        self.shared.tx_bell.ring(); // what is for other links may go on now
        Ok(())
    }

    fn known_link(&self, number: u64) -> Result<(), Refusal> {
        if self.shared.tx.enter().has_link(number) {
            return Ok(());
        }
        Err(Refusal::Misuse(format!("there is no link {number}")))
    }

    /// Sends a control packet.
    ///
    /// # Errors
    /// If there is no such link.
    pub fn send(&self, number: u64, to: SocketAddr, packet: &[u8]) -> Result<(), Refusal> {
        self.known_link(number)?;
        self.shared.tx.enter().control(number, to, packet);
        Ok(())
    }

    // --- peers

    /// Makes a peer known.
    ///
    /// # Errors
    /// If it is known, its link is not, or its id does not fit.
    pub fn add_peer(
        &self,
        handle: u32,
        link: u64,
        endpoint: SocketAddr,
        peer_id: u32,
        rules: Rules,
    ) -> Result<(), Refusal> {
        self.known_link(link)?;
        checked_peer_id(peer_id)?;
        let now = Instant::now();
        let everything = {
            let mut rx = self.shared.rx.enter();
            let state = rx.peers();
            if state.peers.contains_key(&handle) {
                return Err(Refusal::Misuse(format!("peer {handle} is there already")));
            }
            let peer = RxPeer {
                link,
                endpoint,
                rules,
                keys: Default::default(),
                restricted: self.server,
                heard: now,
                silent_since: now,
                exited: false,
                compression_told: false,
                packets: 0,
                bytes: 0,
                dropped: Dropped::default(),
            };
            state.peers.insert(handle, peer);
            state.directory.add(handle, link, endpoint, self.server);
            state.directory.everything()
        };
        let peer = TxPeer {
            link,
            peer_id,
            endpoint,
            rules,
            keys: Vec::new(),
            sending: None,
            sent: now,
            packets: 0,
            bytes: 0,
            dropped_other: 0,
        };
        let mut tx = self.shared.tx.enter();
        tx.peers.insert(handle, peer);
        tx.everything = everything;
        Ok(())
    }

    /// Changes what is given; new rules begin a new wait for silence.
    ///
    /// # Errors
    /// If there is no such peer, or its id does not fit.
    pub fn update_peer(&self, handle: u32, peer_id: Option<u32>, rules: Option<Rules>) -> Result<(), Refusal> {
        checked_peer_id(peer_id.unwrap_or(0))?;
        {
            let mut tx = self.shared.tx.enter();
            let peer = tx.peers.get_mut(&handle).ok_or_else(|| unknown(handle))?;
            if let Some(peer_id) = peer_id {
                peer.peer_id = peer_id;
                for key in &mut peer.keys {
                    key.sealer.address(peer_id).map_err(|error| Refusal::Misuse(error.0))?;
                }
            }
            if let Some(rules) = rules {
                peer.rules = rules;
            }
            tx.schedule(handle);
        }
        if let Some(rules) = rules {
            let mut rx = self.shared.rx.enter();
            let state = rx.peers();
            if let Some(peer) = state.peers.get_mut(&handle) {
                peer.rules = rules;
                peer.heard = Instant::now();
                for opener in peer.keys.iter_mut().flatten() {
                    opener.limit(&rules.limits); // which are those of both directions
                }
            }
            state.schedule(handle);
        }
        self.wake();
        Ok(())
    }

    /// Gives a server's peer its inner addresses, and the networks behind it; what another peer had is taken from that.
    ///
    /// # Errors
    /// If there is no such peer.
    pub fn set_addresses(&self, handle: u32, addresses: &[IpAddr], networks: &[Prefix]) -> Result<(), Refusal> {
        let hosts: Vec<Address> = addresses.iter().map(|&address| address.into()).collect();
        let everything = {
            let mut rx = self.shared.rx.enter();
            let state = rx.peers();
            let peer = state.peers.get_mut(&handle).ok_or_else(|| unknown(handle))?;
            peer.restricted = self.server || !hosts.is_empty() || !networks.is_empty();
            state.directory.restrict(handle, peer.restricted);
            state.directory.inner.give(handle, hosts.clone(), networks.to_vec());
            state.directory.everything()
        };
        let mut tx = self.shared.tx.enter();
        tx.inner.give(handle, hosts, networks.to_vec());
        tx.everything = everything;
        Ok(())
    }

    /// Forgets the peer with its keys.
    ///
    /// # Errors
    /// If there is no such peer.
    pub fn remove_peer(&self, handle: u32) -> Result<(), Refusal> {
        let everything = {
            let mut rx = self.shared.rx.enter();
            let state = rx.peers();
            let peer = state.peers.remove(&handle).ok_or_else(|| unknown(handle))?;
            state.directory.remove(handle, peer.link, peer.endpoint);
            state.schedule(handle);
            state.directory.everything()
        };
        let mut tx = self.shared.tx.enter();
        tx.peers.remove(&handle);
        tx.schedule(handle);
        tx.inner.give(handle, Vec::new(), Vec::new());
        tx.everything = everything;
        Ok(())
    }

    // --- keys

    /// Opens packets under `key_id` from now on.
    ///
    /// # Errors
    /// If there is no such peer, too many keys, or the key does not fit its suite.
    pub fn install_key(&self, handle: u32, key_id: u8, spec: &KeySpec) -> Result<(), Refusal> {
        let (peer_id, limits) = {
            let mut tx = self.shared.tx.enter();
            let peer = tx.peers.get_mut(&handle).ok_or_else(|| unknown(handle))?;
            if peer.keys.iter().all(|key| key.id != key_id) && peer.keys.len() >= MAX_KEYS {
                return Err(Refusal::Misuse(format!("peer {handle} has {MAX_KEYS} keys already")));
            }
            (peer.peer_id, peer.rules.limits)
        };
        let (sealer, opener) = make_key(key_id, spec, peer_id, &limits, Box::new(sys::random))
            .map_err(|error| Refusal::Misuse(error.0))?;
        {
            let mut tx = self.shared.tx.enter();
            if let Some(peer) = tx.peers.get_mut(&handle) {
                peer.stop_sending(key_id);
                peer.keys.retain(|key| key.id != key_id);
                peer.keys.push(TxKey { id: key_id, sealer });
            }
            tx.schedule(handle);
        }
        {
            let mut rx = self.shared.rx.enter();
            let state = rx.peers();
            if let Some(peer) = state.peers.get_mut(&handle) {
                if peer.keys.iter().all(Option::is_none) {
                    peer.heard = Instant::now(); // before there was a key, nothing could be heard
                }
                peer.keys[usize::from(key_id & 7)] = Some(opener);
            }
            state.schedule(handle);
        }
        self.wake();
        Ok(())
    }

    /// Seals under `key_id` from now on.
    ///
    /// # Errors
    /// If there is no such peer or key.
    pub fn activate_key(&self, handle: u32, key_id: u8) -> Result<(), Refusal> {
        let mut tx = self.shared.tx.enter();
        let peer = tx.peers.get_mut(&handle).ok_or_else(|| unknown(handle))?;
        let Some(key) = peer.keys.iter().find(|key| key.id == key_id) else {
            return Err(Refusal::Misuse(format!("peer {handle} has no key {key_id}")));
        };
        if peer.sending.is_none() {
            peer.sent = Instant::now();
        }
        peer.sending = if key.sealer.usage().spent() { None } else { Some(key_id) };
        tx.schedule(handle);
        drop(tx);
        self.wake();
        Ok(())
    }

    /// Forgets `key_id`; nothing happens if it is not there.
    ///
    /// # Errors
    /// If there is no such peer.
    pub fn retire_key(&self, handle: u32, key_id: u8) -> Result<(), Refusal> {
        {
            let mut tx = self.shared.tx.enter();
            let peer = tx.peers.get_mut(&handle).ok_or_else(|| unknown(handle))?;
            peer.stop_sending(key_id);
            peer.keys.retain(|key| key.id != key_id);
        }
        let mut rx = self.shared.rx.enter();
        if let Some(peer) = rx.peers().peers.get_mut(&handle) {
            peer.keys[usize::from(key_id & 7)] = None;
        }
        Ok(())
    }

    /// Seals and sends `payload`, an OCC message.
    ///
    /// # Errors
    /// If there is no such peer.
    pub fn send_inner(&self, handle: u32, payload: &[u8]) -> Result<(), Refusal> {
        let mut tx = self.shared.tx.enter();
        if !tx.peers.contains_key(&handle) {
            return Err(unknown(handle));
        }
        tx.message(handle, payload, Instant::now());
        Ok(())
    }

    /// Totals of a peer.
    ///
    /// # Errors
    /// If there is no such peer.
    pub fn counters(&self, handle: u32) -> Result<Counters, Refusal> {
        let mut counters = Counters::default();
        {
            let mut rx = self.shared.rx.enter();
            let peer = rx.peers().peers.get(&handle).ok_or_else(|| unknown(handle))?;
            counters.bytes_in = peer.bytes;
            counters.packets_in = peer.packets;
            counters.dropped_replay = peer.dropped.replay;
            counters.dropped_auth = peer.dropped.auth;
            counters.dropped_other = peer.dropped.other;
            counters.dropped_compressed = peer.dropped.compressed;
        }
        let tx = self.shared.tx.enter();
        if let Some(peer) = tx.peers.get(&handle) {
            counters.bytes_out = peer.bytes;
            counters.packets_out = peer.packets;
            counters.dropped_other += peer.dropped_other;
        }
        Ok(counters)
    }

    /// Data packets lost to a full socket, a full queue or a network error.
    #[must_use]
    pub fn dropped_full(&self) -> u64 {
        self.shared.tx.enter().dropped_full
    }

    /// Has both workers look at their deadlines.
    fn wake(&self) {
        self.shared.tx_bell.ring();
        self.shared.rx_bell.ring();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

fn unknown(handle: u32) -> Refusal {
    Refusal::Misuse(format!("there is no peer {handle}"))
}

fn checked_peer_id(peer_id: u32) -> Result<(), Refusal> {
    if peer_id > NO_PEER_ID {
        return Err(Refusal::Misuse(format!("a peer id has 24 bits, {peer_id} does not fit")));
    }
    Ok(())
}

/// Runs a worker; its end by a bug is told, and goes no further.
fn contained(name: &str, events: &Events, work: impl FnOnce() -> io::Result<()>) {
    let reason = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
            .unwrap_or_default(),
    };
    events.push(Event::Broken(format!("{name}: {reason}")));
}

fn send(shared: &Shared) -> io::Result<()> {
    sys::hasten();
    let (mut ready, mut pace) = (Vec::new(), Pace::new(Instant::now()));
    while !shared.stop.load(SeqCst) {
        let Some(mut tx) = shared.tx.turn() else {
            return Err(io::Error::other("a call of the owner's failed"));
        };
        let turn = tx.turn(&ready, Instant::now());
        drop(tx);
        rest(&mut pace, &turn, &shared.tx_watch, &shared.tx_bell, &mut ready)?;
    }
    Ok(())
}

fn receive(shared: &Shared) -> io::Result<()> {
    sys::hasten();
    let (mut ready, mut pace) = (Vec::new(), Pace::new(Instant::now()));
    while !shared.stop.load(SeqCst) {
        let Some(mut rx) = shared.rx.turn() else {
            return Err(io::Error::other("a call of the owner's failed"));
        };
        let turn = rx.turn(&ready, &shared.tx, Instant::now());
        if std::mem::take(&mut rx.peers().unanswered) {
            shared.tx_bell.ring();
        }
        drop(rx);
        rest(&mut pace, &turn, &shared.rx_watch, &shared.rx_bell, &mut ready)?;
    }
    Ok(())
}

/// What a worker does between two turns; puts into `ready` what it finds.
fn rest(pace: &mut Pace, turn: &Turn, watch: &Watch, bell: &Bell, ready: &mut Vec<u64>) -> io::Result<()> {
    sleep(pace.rest(turn, Instant::now()));
    let mut now = Instant::now();
    let end = now + pace.look(turn, now);
    loop {
        let looks = now < end;
        watch.wait(if looks { Some(Duration::ZERO) } else { turn.wait }, ready)?;
        if !looks || !ready.is_empty() {
            break;
        }
        yield_now();
        let before = std::mem::replace(&mut now, Instant::now());
        pace.yielded(before, now);
    }
    if ready.contains(&BELL) {
        bell.hush();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_the_worker_and_is_told() {
        let events = Events::new().unwrap();
        contained("worker", &events, || panic!("a bug"));
        contained("worker", &events, || Ok(()));
        assert!(matches!(&events.take()[..], [Event::Broken(reason)] if reason == "worker: a bug"));
    }

    #[test]
    fn the_workers_end_when_they_are_told_to() {
        let mut engine = Engine::start(false, false).unwrap();
        assert!(engine.counters(1).is_err());
        engine.close();
        assert!(engine.events().is_empty());
    }
}
