// SPDX-License-Identifier: BSD-2-Clause
//! What lies between keys and sockets, for tests: framing, inner packets.

use miragevpn_core::framing::{Framing, Unframed};
use miragevpn_core::inner::{Address, Payload, classify as classify_payload};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::key::Refused;

pub(crate) fn framing(kind: &str) -> PyResult<Framing> {
    match kind {
        "none" => Ok(Framing::None),
        "byte" => Ok(Framing::Byte),
        "swapped" => Ok(Framing::Swapped),
        "v2" => Ok(Framing::V2),
        _ => Err(PyValueError::new_err(format!("no framing is called {kind:?}"))),
    }
}

/// `inner`, which is not empty, framed.
#[pyfunction]
pub(crate) fn frame<'py>(py: Python<'py>, kind: &str, inner: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let framing = framing(kind)?;
    let mut buf = vec![0; framing.head()];
    buf.extend_from_slice(inner);
    let at = framing.head()..buf.len();
    let framed = framing.wrap(&mut buf, at);
    Ok(PyBytes::new(py, &buf[framed]))
}

/// The inner packet in `framed`.
#[pyfunction]
pub(crate) fn unframe<'py>(py: Python<'py>, kind: &str, framed: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let mut buf = framed.to_vec();
    match framing(kind)?.unwrap(&mut buf, 0..framed.len()) {
        Ok(at) => Ok(PyBytes::new(py, &buf[at])),
        Err(Unframed::Compressed) => Err(Refused::new_err(("compressed", "the packet is compressed"))),
        Err(Unframed::Malformed) => Err(Refused::new_err(("other", "the framing is not known"))),
    }
}

fn packed(address: Address) -> Vec<u8> {
    match address {
        Address::V4(bits) => bits.to_be_bytes().to_vec(),
        Address::V6(bits) => bits.to_be_bytes().to_vec(),
    }
}

/// What `payload` is: "ping", "exit", "occ", "unknown", or source and destination of an IP packet.
#[pyfunction]
pub(crate) fn classify(py: Python<'_>, payload: &[u8]) -> PyResult<Py<PyAny>> {
    let name = match classify_payload(payload) {
        Payload::Ip { source, destination } => {
            let ends = (PyBytes::new(py, &packed(source)), PyBytes::new(py, &packed(destination)));
            return Ok(ends.into_pyobject(py)?.into_any().unbind());
        }
        Payload::Ping => "ping",
        Payload::Exit => "exit",
        Payload::Occ => "occ",
        Payload::Unknown => "unknown",
    };
    Ok(name.into_pyobject(py)?.into_any().unbind())
}
