// SPDX-License-Identifier: BSD-2-Clause
//! The last step inwards: writing to the TUN what came, several packets of a flow in one piece where it takes that.
//!
//! Packets are put together as they are opened, while their bytes are still at hand.

use std::io::{self, IoSlice};
use std::ops::Range;

use miragevpn_core::coalesce::Coalescer;
use miragevpn_core::segment::{Prepared, VNET_LEN, VnetHeader, prepare};

use crate::link::words;
use crate::tun::Tun;

/// Joins packets, until the TUN turns out not to take them so.
pub(crate) struct Delivery {
    coalescer: Coalescer,
    tcp: bool,
    udp: bool,
    /// What the TUN refused, for the owner's log; one sentence.
    refusal: Option<String>,
}

impl Delivery {
    pub(crate) fn new() -> Self {
        Self { coalescer: Coalescer::new(false, false), tcp: true, udp: true, refusal: None }
    }

    /// From now on `write` gets this TUN; what one refused before is not tried again.
    pub(crate) fn attach(&mut self, tun: &Tun) {
        self.coalescer = Coalescer::new(tun.tcp && self.tcp, tun.udp && self.udp);
    }

    /// There is no TUN: nothing need be put together.
    pub(crate) fn detach(&mut self) {
        self.coalescer = Coalescer::new(false, false);
    }

    /// What was refused since this was asked last.
    pub(crate) fn take_refusal(&mut self) -> Option<String> {
        self.refusal.take()
    }

    /// Takes the packet at `at` of `buffer`, which stays as it is until [`Self::write`] or [`Self::clear`].
    pub(crate) fn push(&mut self, buffer: &[u8], at: Range<usize>) {
        self.coalescer.push(buffer, at);
    }

    /// Whether just one packet was pushed.
    pub(crate) fn is_single(&self) -> bool {
        matches!(self.coalescer.frames(), [frame] if frame.count() == 1)
    }

    /// Forgets them.
    pub(crate) fn clear(&mut self) {
        self.coalescer.clear();
    }

    /// Writes what was pushed, which lies in `buffer`. An error is one after which the TUN is of no use; a packet that
    /// it does not take is lost.
    pub(crate) fn write(&mut self, buffer: &[u8], tun: &Tun) -> io::Result<()> {
        self.coalescer.finish(buffer);
        let done = self.write_frames(buffer, tun);
        self.coalescer.clear();
        if self.refusal.is_some() {
            self.attach(tun);
        }
        done
    }

    fn write_frames(&mut self, buffer: &[u8], tun: &Tun) -> io::Result<()> {
        let mut parts: Vec<IoSlice<'_>> = Vec::with_capacity(65);
        for frame in self.coalescer.frames() {
            parts.clear();
            if tun.vnet {
                parts.push(IoSlice::new(frame.head()));
            }
            parts.extend(self.coalescer.pieces(frame).map(|piece| IoSlice::new(&buffer[piece])));
            match tun.write(&parts) {
                Err(error) if frame.count() > 1 && !is_gone(&error) => {
                    apart(&parts, tun)?;
                    if is_refusal(&error) {
                        let what = if frame.is_tcp() { &mut self.tcp } else { &mut self.udp };
                        if std::mem::replace(what, false) {
                            let kind = if frame.is_tcp() { "TCP" } else { "UDP" };
                            let why = words(&error);
                            self.refusal = Some(format!("it takes no {kind} packets in one piece ({why})"));
                        }
                    }
                }
                written => usable(written)?,
            }
        }
        Ok(())
    }
}

/// Writes the packets that the frame in `parts` was made of one by one.
fn apart(parts: &[IoSlice<'_>], tun: &Tun) -> io::Result<()> {
    let mut frame: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
    let Some((header, packet)) = frame.split_first_chunk_mut::<VNET_LEN>() else {
        return Ok(());
    };
    let Ok(Prepared::Segments(mut segments)) = prepare(VnetHeader::read(header), packet) else {
        return Ok(());
    };
    let (plain, mut room) = (VnetHeader::default().bytes(), vec![0; segments.longest()]);
    while let Some(size) = segments.next_into(packet, &mut room) {
        usable(tun.write(&[IoSlice::new(&plain), IoSlice::new(&room[..size])]))?;
    }
    Ok(())
}

/// No device any more, or one that is down (EIO): a joined packet may meet that for another reason.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EBADF | libc::ENODEV))
}

/// Whether the device would refuse the next piece as well; anything else (no memory, a full queue) passes.
fn is_refusal(error: &io::Error) -> bool {
    let never = [libc::EINVAL, libc::EIO, libc::E2BIG, libc::EMSGSIZE, libc::EOPNOTSUPP, libc::ENOSYS, libc::EPROTO];
    error.raw_os_error().is_some_and(|number| never.contains(&number))
}

/// Lets pass what costs a packet only: a full queue, or a packet that the kernel does not like.
fn usable(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if is_gone(&error) || error.raw_os_error() == Some(libc::EIO) => Err(error),
        _ => Ok(()),
    }
}
