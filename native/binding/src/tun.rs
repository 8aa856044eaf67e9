// SPDX-License-Identifier: BSD-2-Clause
//! Cutting and joining for a TUN with virtio-net headers, for tests.

use miragevpn_core::coalesce::Coalescer;
use miragevpn_core::segment::{Prepared, VNET_LEN, VnetHeader, prepare};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// The packets that `frame` (virtio-net header, packet) is cut into.
#[pyfunction]
pub(crate) fn segment<'py>(py: Python<'py>, frame: &[u8]) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let Some((header, packet)) = frame.split_first_chunk::<VNET_LEN>() else {
        return Err(PyValueError::new_err("no virtio-net header"));
    };
    let mut packet = packet.to_vec();
    match prepare(VnetHeader::read(header), &mut packet) {
        Err(_) => Err(PyValueError::new_err("the header does not fit the packet")),
        Ok(Prepared::Whole) => Ok(vec![PyBytes::new(py, &packet)]),
        Ok(Prepared::Segments(mut segments)) => {
            let mut out = vec![0; segments.longest()];
            let mut made = Vec::new();
            while let Some(size) = segments.next_into(&packet, &mut out) {
                made.push(PyBytes::new(py, &out[..size]));
            }
            Ok(made)
        }
    }
}

/// The frames (virtio-net header, packet) that well-formed IP `packets` are joined to.
#[pyfunction]
#[pyo3(signature = (packets, *, tcp = true, udp = true))]
pub(crate) fn coalesce<'py>(py: Python<'py>, packets: Vec<Vec<u8>>, tcp: bool, udp: bool) -> Vec<Bound<'py, PyBytes>> {
    let arena = packets.concat();
    let mut coalescer = Coalescer::new(tcp, udp);
    let mut at = 0;
    for packet in &packets {
        coalescer.push(&arena, at..at + packet.len());
        at += packet.len();
    }
    coalescer.finish(&arena);
    let whole = |frame| {
        let mut bytes = Vec::new();
        let frame: &miragevpn_core::coalesce::Frame = frame;
        bytes.extend_from_slice(frame.head());
        for piece in coalescer.pieces(frame) {
            bytes.extend_from_slice(&arena[piece]);
        }
        PyBytes::new(py, &bytes)
    };
    coalescer.frames().iter().map(whole).collect()
}
