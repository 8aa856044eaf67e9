// SPDX-License-Identifier: BSD-2-Clause
//! A TUN device, with virtio-net headers and whatever offloads the kernel has, or without.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, RawFd};

use miragevpn_core::segment::VNET_LEN;

use crate::queue::change;
use crate::sys::{self, Interface, Offloads};

/// What a TUN can do; the two directions each have one for the same device.
#[derive(Debug)]
pub(crate) struct Tun {
    file: File,
    interface: Option<Interface>, // none: its queue is as long as it is
    pub(crate) vnet: bool,
    pub(crate) tcp: bool,
    pub(crate) udp: bool,
}

impl Tun {
    /// Opens a second descriptor for the device at `fd`, which stays its owner's, and finds out what it can do.
    ///
    /// Whatever is no TUN (a socket pair in a test) is read and written packet by packet.
    pub(crate) fn of(fd: RawFd) -> io::Result<Self> {
        let file = File::from(sys::duplicate(fd)?);
        let vnet = sys::has_vnet_header(&file).unwrap_or(false);
        let mut tun = Self { file, interface: None, vnet, tcp: false, udp: false };
        if vnet {
            sys::set_vnet_header_size(&tun.file, VNET_LEN as i32)?;
            tun.udp = sys::set_offloads(&tun.file, Offloads::TCP_AND_UDP).is_ok();
            tun.tcp = tun.udp || sys::set_offloads(&tun.file, Offloads::TCP).is_ok();
            if !tun.tcp {
                // One that knows no offloads refuses this as well, and has none; what an earlier owner set is taken
                // for what it is by every read.
                let _ = sys::set_offloads(&tun.file, Offloads::NONE);
            }
            tun.interface = Interface::of(&tun.file).ok();
        }
        Ok(tun)
    }

    /// The same device once more, as it was found to be.
    pub(crate) fn again(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, interface: None, vnet: self.vnet, tcp: self.tcp, udp: self.udp })
    }

    /// What it can do, for the log.
    pub(crate) fn describe(&self) -> String {
        match (self.vnet, self.tcp, self.udp) {
            (_, _, true) => "TCP and UDP segmentation",
            (_, true, _) => "TCP segmentation",
            (true, ..) => "no segmentation",
            _ => "packet by packet",
        }
        .to_owned()
    }

    /// Reads one packet, with its virtio-net header if there are any.
    pub(crate) fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(into)
    }

    /// Writes one packet, with its virtio-net header if there are any.
    pub(crate) fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        (&self.file).write_vectored(parts).map(drop)
    }

    /// Lets about `wanted` packets wait, where a turn that found `found` allows it, until the system does not have it.
    pub(crate) fn fit_queue(&mut self, wanted: usize, found: usize, emptied: bool) {
        let Some(interface) = &self.interface else {
            return;
        };
        let fitted = interface.queue().and_then(|present| match change(present, wanted, found, emptied) {
            Some(length) => interface.set_queue(length),
            None => Ok(()),
        });
        if fitted.is_err() {
            self.interface = None;
        }
    }

    /// Leaves the device as somebody would expect it who does not know these headers: it may outlive us.
    pub(crate) fn release(&self) {
        if self.vnet {
            let _ = sys::set_offloads(&self.file, Offloads::NONE); // the device may be gone already
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
