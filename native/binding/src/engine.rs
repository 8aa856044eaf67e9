// SPDX-License-Identifier: BSD-2-Clause
//! The engine as Python calls it.
//!
//! Every call lets go of the interpreter while it waits for a worker to finish its turn.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::Duration;

use miragevpn_core::routes::Prefix;
use miragevpn_core::{Digest, DirectionKeys, Format, KeySpec, Limits, Suite};
use miragevpn_linux::{Engine, Event, Refusal, Rules};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use zeroize::Zeroizing;

/// The one conversion of errors: a caller's mistake is the package's `MisuseError`, the system's are `OSError`.
fn refused(py: Python<'_>, refusal: Refusal) -> PyErr {
    match refusal {
        Refusal::System(error) => match error.raw_os_error() {
            Some(number) => PyOSError::new_err((number, error.to_string())),
            None => PyOSError::new_err(error.to_string()),
        },
        Refusal::Misuse(text) => {
            match py.import("qubes_miragevpn.base.errors").and_then(|module| module.getattr("MisuseError")) {
                Ok(class) => class.call1((text,)).map_or_else(|error| error, PyErr::from_value),
                Err(error) => error,
            }
        }
    }
}

fn misuse(py: Python<'_>, text: String) -> PyErr {
    refused(py, Refusal::Misuse(text))
}

/// A socket address as Python's socket module has them.
fn endpoint(py: Python<'_>, address: &Bound<'_, PyTuple>) -> PyResult<SocketAddr> {
    let host: String = address.get_item(0)?.extract()?;
    let port: u16 = address.get_item(1)?.extract()?;
    // "%eth0" after a link-local address repeats the scope, which is there as a number.
    let ip: IpAddr =
        host.split('%').next().unwrap_or("").parse().map_err(|_| misuse(py, "that is no address".to_owned()))?;
    Ok(match ip {
        IpAddr::V6(ip) if address.len() == 4 => SocketAddr::V6(SocketAddrV6::new(
            ip,
            port,
            address.get_item(2)?.extract()?,
            address.get_item(3)?.extract()?,
        )),
        ip => SocketAddr::new(ip, port),
    })
}

fn address<'py>(py: Python<'py>, endpoint: SocketAddr) -> PyResult<Bound<'py, PyAny>> {
    Ok(match endpoint {
        SocketAddr::V4(v4) => (v4.ip().to_string(), v4.port()).into_pyobject(py)?.into_any(),
        SocketAddr::V6(v6) => {
            (v6.ip().to_string(), v6.port(), v6.flowinfo(), v6.scope_id()).into_pyobject(py)?.into_any()
        }
    })
}

pub(crate) fn seconds(value: f64) -> Option<Duration> {
    if value > 0.0 { Duration::try_from_secs_f64(value).ok() } else { None }
}

fn event<'py>(py: Python<'py>, event: Event) -> PyResult<Bound<'py, PyAny>> {
    Ok(match event {
        Event::Control { link, from, packet } => {
            let from = from.map(|from| address(py, from)).transpose()?;
            ("control", link, from, PyBytes::new(py, &packet)).into_pyobject(py)?.into_any()
        }
        Event::KeyExhausted { peer, key_id } => ("key exhausted", peer, key_id).into_pyobject(py)?.into_any(),
        Event::KeyInUse { peer, key_id } => ("key in use", peer, key_id).into_pyobject(py)?.into_any(),
        Event::PeerSilent(peer) => ("silent", peer).into_pyobject(py)?.into_any(),
        Event::Compressed(peer) => ("compressed", peer).into_pyobject(py)?.into_any(),
        Event::Occ { peer, message, size } => {
            ("occ", peer, PyBytes::new(py, &message), size).into_pyobject(py)?.into_any()
        }
        Event::PeerExited(peer) => ("exited", peer).into_pyobject(py)?.into_any(),
        Event::Floated { peer, to } => ("floated", peer, address(py, to)?).into_pyobject(py)?.into_any(),
        Event::LinkFailed { link, reason } => ("link failed", link, reason).into_pyobject(py)?.into_any(),
        Event::TunFailed(reason) => ("tun failed", reason).into_pyobject(py)?.into_any(),
        Event::TunRefused(what) => ("tun refused", what).into_pyobject(py)?.into_any(),
        Event::Broken(reason) => ("broken", reason).into_pyobject(py)?.into_any(),
    })
}

/// The rules of `PeerLimits` that are not about payload.
#[pyclass(name = "Rules", frozen)]
pub(crate) struct PyRules(Rules);

#[pymethods]
impl PyRules {
    #[new]
    #[pyo3(signature = (*, ping, silence, replay_window, replay_time, mss4, mss6, reneg_bytes,
        reneg_pkts, floats, framing))]
    #[expect(clippy::too_many_arguments, reason = "they have names, and are one Python object's")]
    fn new(
        py: Python<'_>,
        ping: f64,
        silence: f64,
        replay_window: usize,
        replay_time: f64,
        mss4: u16,
        mss6: u16,
        reneg_bytes: u64,
        reneg_pkts: u64,
        floats: bool,
        framing: &str,
    ) -> PyResult<Self> {
        let framing =
            crate::parts::framing(framing).map_err(|_| misuse(py, format!("no framing is called {framing:?}")))?;
        Ok(Self(Rules {
            ping: seconds(ping),
            silence: seconds(silence),
            mss4,
            mss6,
            floats,
            framing,
            limits: Limits { replay_window, replay_time: seconds(replay_time), reneg_bytes, reneg_packets: reneg_pkts },
        }))
    }
}

/// Cipher key, implicit IV, HMAC key.
type Way<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// One key slot as it is installed, wiped when it goes.
#[pyclass(name = "Slot", frozen)]
pub(crate) struct PySlot(KeySpec);

#[pymethods]
impl PySlot {
    #[new]
    #[pyo3(signature = (suite, send, receive, *, digest, epoch))]
    fn new(py: Python<'_>, suite: &str, send: Way<'_>, receive: Way<'_>, digest: &str, epoch: bool) -> PyResult<Self> {
        let suite = Suite::named(suite).ok_or_else(|| misuse(py, format!("no suite is called {suite:?}")))?;
        let digest = match digest {
            _ if suite.is_aead() => None,
            name => Some(Digest::named(name).ok_or_else(|| misuse(py, format!("no digest is called {name:?}")))?),
        };
        let format = if epoch { Format::Epoch } else { Format::Plain };
        let wiped = |bytes: &[u8]| Zeroizing::new(bytes.to_vec());
        let direction = |(cipher, iv, hmac): Way<'_>| DirectionKeys {
            cipher_key: wiped(cipher),
            implicit_iv: wiped(iv),
            hmac_key: wiped(hmac),
        };
        Ok(Self(KeySpec { suite, digest, format, send: direction(send), receive: direction(receive) }))
    }
}

/// `miragevpn_linux::Engine`.
#[pyclass(name = "Engine", frozen)]
pub(crate) struct PyEngine(std::sync::Mutex<Option<Engine>>);

impl PyEngine {
    /// Calls the engine without the interpreter; one that was closed does nothing.
    fn with<T: Default + Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&Engine) -> Result<T, Refusal> + Send,
    ) -> PyResult<T> {
        let done = py.detach(|| match &*self.lock() {
            Some(engine) => call(engine),
            None => Ok(T::default()),
        });
        done.map_err(|refusal| refused(py, refusal))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Engine>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[pymethods]
impl PyEngine {
    #[new]
    fn new(py: Python<'_>, server: bool, among: bool) -> PyResult<Self> {
        let engine = Engine::start(server, among).map_err(|refusal| refused(py, refusal))?;
        Ok(Self(std::sync::Mutex::new(Some(engine))))
    }

    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.with(py, |engine| Ok(engine.bell().as_raw_fd()))
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| drop(self.lock().take()));
    }

    fn events<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let events = self.with(py, |engine| Ok(engine.events()))?;
        events.into_iter().map(|each| event(py, each)).collect()
    }

    fn attach_tun(&self, py: Python<'_>, fd: i32) -> PyResult<String> {
        self.with(py, |engine| engine.attach_tun(fd))
    }

    fn detach_tun(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |engine| {
            engine.detach_tun();
            Ok(())
        })
    }

    fn attach_link(&self, py: Python<'_>, link: u64, fd: i32, stream: bool, connected: bool) -> PyResult<()> {
        self.with(py, |engine| engine.attach_link(link, fd, stream, connected))
    }

    fn detach_link(&self, py: Python<'_>, link: u64) -> PyResult<()> {
        self.with(py, |engine| engine.detach_link(link))
    }

    fn send(&self, py: Python<'_>, link: u64, to: &Bound<'_, PyTuple>, packet: &[u8]) -> PyResult<()> {
        let to = endpoint(py, to)?;
        self.with(py, |engine| engine.send(link, to, packet))
    }

    fn add_peer(
        &self,
        py: Python<'_>,
        peer: u32,
        link: u64,
        to: &Bound<'_, PyTuple>,
        peer_id: u32,
        rules: &PyRules,
    ) -> PyResult<()> {
        let to = endpoint(py, to)?;
        self.with(py, |engine| engine.add_peer(peer, link, to, peer_id, rules.0))
    }

    #[pyo3(signature = (peer, peer_id=None, rules=None))]
    fn update_peer(
        &self,
        py: Python<'_>,
        peer: u32,
        peer_id: Option<u32>,
        rules: Option<PyRef<'_, PyRules>>,
    ) -> PyResult<()> {
        let rules = rules.map(|rules| rules.0);
        self.with(py, |engine| engine.update_peer(peer, peer_id, rules))
    }

    fn set_addresses(
        &self,
        py: Python<'_>,
        peer: u32,
        addresses: Vec<String>,
        networks: Vec<(String, u8)>,
    ) -> PyResult<()> {
        let address = |text: &str| text.parse::<IpAddr>().ok();
        let network = |(text, length): &(String, u8)| Prefix::new(address(text)?.into(), *length);
        let hosts: Option<Vec<_>> = addresses.iter().map(|text| address(text)).collect();
        let prefixes: Option<Vec<_>> = networks.iter().map(network).collect();
        let (Some(hosts), Some(prefixes)) = (hosts, prefixes) else {
            return Err(misuse(py, "that is no address".to_owned()));
        };
        self.with(py, |engine| engine.set_addresses(peer, &hosts, &prefixes))
    }

    fn remove_peer(&self, py: Python<'_>, peer: u32) -> PyResult<()> {
        self.with(py, |engine| engine.remove_peer(peer))
    }

    fn install_key(&self, py: Python<'_>, peer: u32, key_id: u8, key: PyRef<'_, PySlot>) -> PyResult<()> {
        let spec = key.0.clone();
        self.with(py, |engine| engine.install_key(peer, key_id, &spec))
    }

    fn activate_key(&self, py: Python<'_>, peer: u32, key_id: u8) -> PyResult<()> {
        self.with(py, |engine| engine.activate_key(peer, key_id))
    }

    fn retire_key(&self, py: Python<'_>, peer: u32, key_id: u8) -> PyResult<()> {
        self.with(py, |engine| engine.retire_key(peer, key_id))
    }

    fn send_inner(&self, py: Python<'_>, peer: u32, payload: &[u8]) -> PyResult<()> {
        self.with(py, |engine| engine.send_inner(peer, payload))
    }

    /// In the order of `interface.Counters`.
    fn counters(&self, py: Python<'_>, peer: u32) -> PyResult<[u64; 8]> {
        self.with(py, |engine| {
            let c = engine.counters(peer)?;
            Ok([
                c.bytes_in,
                c.bytes_out,
                c.packets_in,
                c.packets_out,
                c.dropped_replay,
                c.dropped_auth,
                c.dropped_other,
                c.dropped_compressed,
            ])
        })
    }

    #[getter]
    fn dropped_full(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |engine| Ok(engine.dropped_full()))
    }
}
