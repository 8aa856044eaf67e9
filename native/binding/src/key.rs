// SPDX-License-Identifier: BSD-2-Clause
//! One key slot, packet by packet: how tests compare the native formats with the reference's.

use std::time::{Duration, Instant};

use miragevpn_core::{
    Digest, DirectionKeys, Drop, Entropy, Format, KeyError, KeySpec, Limits, OpenError, Opener, SealError, Sealer,
    Start, Suite, make_key_at,
};
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use zeroize::Zeroizing;

use crate::engine::seconds;

create_exception!(
    _native,
    Refused,
    PyException,
    "A packet that is not opened or not sealed; the counter it goes to, and why."
);

/// The only place where errors of the core become Python's.
pub(crate) fn bad_value(error: KeyError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn not_opened(error: OpenError) -> PyErr {
    let counter = match error.counter() {
        Drop::Replay => "replay",
        Drop::Auth => "auth",
        Drop::Other => "other",
    };
    Refused::new_err((counter, error.to_string()))
}

fn not_sealed(error: SealError) -> PyErr {
    Refused::new_err(("other", error.to_string()))
}

/// Cipher key, implicit IV, HMAC key.
type Way = (Vec<u8>, Vec<u8>, Vec<u8>);

fn direction((cipher_key, implicit_iv, hmac_key): Way) -> DirectionKeys {
    DirectionKeys {
        cipher_key: Zeroizing::new(cipher_key),
        implicit_iv: Zeroizing::new(implicit_iv),
        hmac_key: Zeroizing::new(hmac_key),
    }
}

/// Entropy out of `callable(n) -> n bytes`; any misbehaviour means that there is none.
fn entropy(callable: Py<PyAny>) -> Entropy {
    Box::new(move |buffer| {
        Python::attach(|py| match callable.call1(py, (buffer.len(),)).and_then(|made| made.extract::<Vec<u8>>(py)) {
            Ok(made) if made.len() == buffer.len() => {
                buffer.copy_from_slice(&made);
                true
            }
            _ => false,
        })
    })
}

/// One key slot, both directions.
#[pyclass(unsendable)] // the program makes its keys inside the engine; here is only what a test thread holds
pub(crate) struct Key {
    sealer: Sealer,
    opener: Opener,
    begin: Instant,
}

#[pymethods]
impl Key {
    #[new]
    #[pyo3(signature = (key_id, suite, send, receive, entropy, *, digest = "", epoch = false, since = 0,
        peer_id = 0, replay_window = 64, replay_time = 0.0, reneg_bytes = 0, reneg_packets = 0,
        packets_sent = 0, failed_tags = 0, usage_limit = None, start_epoch = 0))]
    #[allow(clippy::too_many_arguments)] // keywords, on Python's side
    fn new(
        key_id: u8,
        suite: &str,
        send: Way,
        receive: Way,
        entropy: Py<PyAny>,
        digest: &str,
        epoch: bool,
        since: u32,
        peer_id: u32,
        replay_window: usize,
        replay_time: f64,
        reneg_bytes: u64,
        reneg_packets: u64,
        packets_sent: u64,
        failed_tags: u64,
        usage_limit: Option<u64>,
        start_epoch: u32,
    ) -> PyResult<Self> {
        let format = match (epoch, since) {
            (true, _) => Format::Epoch,
            (false, 0) => Format::Plain,
            (false, since) => Format::Static { since },
        };
        let spec = KeySpec {
            suite: Suite::named(suite).ok_or_else(|| PyValueError::new_err(format!("no suite is called {suite:?}")))?,
            digest: Digest::named(digest),
            format,
            send: direction(send),
            receive: direction(receive),
        };
        let replay_time = seconds(replay_time);
        let limits = Limits { replay_window, replay_time, reneg_bytes, reneg_packets };
        let start = Start { packets_sent, failed_tags, usage_limit, epoch: start_epoch };
        let made = make_key_at(key_id, &spec, peer_id, &limits, self::entropy(entropy), &start);
        let (sealer, opener) = made.map_err(bad_value)?;
        Ok(Self { sealer, opener, begin: Instant::now() })
    }

    fn seal<'py>(&mut self, py: Python<'py>, payload: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let (head, tail) = (self.sealer.head(), self.sealer.tail());
        let mut buf = vec![0; head + payload.len() + tail];
        buf[head..head + payload.len()].copy_from_slice(payload);
        let size = self.sealer.seal(&mut buf, payload.len()).map_err(not_sealed)?;
        Ok(PyBytes::new(py, &buf[..size]))
    }

    #[pyo3(signature = (packet, now = 0.0))]
    fn open<'py>(&mut self, py: Python<'py>, packet: &[u8], now: f64) -> PyResult<Bound<'py, PyBytes>> {
        self.opener.at(self.begin + Duration::from_secs_f64(now));
        let mut buf = packet.to_vec();
        let payload = self.opener.open(&mut buf).map_err(not_opened)?;
        Ok(PyBytes::new(py, &buf[payload]))
    }

    fn address(&mut self, peer_id: u32) -> PyResult<()> {
        self.sealer.address(peer_id).map_err(bad_value)
    }

    fn take_exhausted(&self) -> bool {
        self.sealer.usage().take_exhausted()
    }

    fn take_in_use(&self) -> bool {
        self.sealer.usage().take_in_use()
    }

    #[getter]
    fn spent(&self) -> bool {
        self.sealer.usage().spent()
    }

    #[getter]
    fn send_epoch(&self) -> u32 {
        self.sealer.usage().send_epoch()
    }

    #[getter]
    fn sent(&self) -> (u64, u64) {
        self.sealer.usage().sent()
    }

    #[getter]
    fn received(&self) -> (u64, u64) {
        self.sealer.usage().received()
    }
}
