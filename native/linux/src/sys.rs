// SPDX-License-Identifier: BSD-2-Clause
//! The system calls that the standard library does not have. All of the crate's unsafe code is here.
//!
//! Everything handed out is owned or borrowed safely; a raw pointer never outlives the call that it was made for.

use std::fs::File;
use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{addr_of_mut, null_mut};
use std::time::Duration;

/// Messages that one call sends or receives.
pub(crate) const MESSAGES: usize = 16;
/// Most readiness reports taken in one call.
const REPORTS: usize = 64;

const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;
const TUNGETIFF: libc::c_ulong = 0x8004_54D2;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54D0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54D8;
const IFF_VNET_HDR: libc::c_short = 0x4000;
const SIOCGIFTXQLEN: libc::c_ulong = 0x8942;
const SIOCSIFTXQLEN: libc::c_ulong = 0x8943;

/// Steps of niceness that a worker takes ahead of the rest of its process, and microseconds that it asks for at once:
/// whoever moves everybody's packets comes first, as the kernel's own network stack does, and only for moments.
const STEPS: libc::c_int = 10;
const SLICE: Duration = Duration::from_micros(100);

/// What a TUN may leave to whoever reads it (linux/if_tun.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offloads(libc::c_ulong);

impl Offloads {
    /// Nothing.
    pub(crate) const NONE: Self = Self(0);
    /// Checksums, TCP segments of both families.
    pub(crate) const TCP: Self = Self(0x01 | 0x02 | 0x04);
    /// The same, and UDP segments (Linux 6.2).
    pub(crate) const TCP_AND_UDP: Self = Self(0x01 | 0x02 | 0x04 | 0x20 | 0x40);
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A descriptor of our own for what `fd` refers to.
///
/// # Errors
/// What the system says, for a number that is no open descriptor too.
pub(crate) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl takes any number for a descriptor and touches no memory of ours.
    let copy = checked(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) })?;
    // SAFETY: the call has just made `copy`, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Takes over the descriptor `fd`, which its owner has let go of (`socket.detach()`).
///
/// # Errors
/// If there is no such descriptor.
pub(crate) fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl takes any number for a descriptor and touches no memory of ours.
    checked(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
    // SAFETY: it is open, and by the contract of this function nobody else will close it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The name and the flags of this TUN; an error if it is none.
fn described(tun: &File) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { zeroed() };
    // SAFETY: TUNGETIFF writes one ifreq, which lives for the call.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), TUNGETIFF as _, addr_of_mut!(request)) })?;
    Ok(request)
}

/// Whether reads and writes of this TUN begin with a virtio-net header; an error if it is no TUN.
///
/// # Errors
/// What the system says.
pub(crate) fn has_vnet_header(tun: &File) -> io::Result<bool> {
    // SAFETY: TUNGETIFF has set this member of the union; every bit pattern is a number.
    let flags = unsafe { described(tun)?.ifr_ifru.ifru_flags };
    Ok(flags & IFF_VNET_HDR != 0)
}

/// The interface of a TUN, with a socket to ask about it.
#[derive(Debug)]
pub(crate) struct Interface {
    name: [libc::c_char; libc::IFNAMSIZ],
    socket: OwnedFd,
}

impl Interface {
    /// # Errors
    /// If this is no TUN, or there are no more descriptors.
    pub(crate) fn of(tun: &File) -> io::Result<Self> {
        let name = described(tun)?.ifr_name;
        // SAFETY: socket touches no memory of ours.
        let fd = checked(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: the call has just made `fd`, which nobody else owns.
        Ok(Self { name, socket: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: ifreq is plain data, for which zeros are valid.
        let mut request: libc::ifreq = unsafe { zeroed() };
        request.ifr_name = self.name;
        request
    }

    /// How many packets may wait there.
    ///
    /// # Errors
    /// If it is gone.
    pub(crate) fn queue(&self) -> io::Result<usize> {
        let mut request = self.request();
        // SAFETY: SIOCGIFTXQLEN reads a name from one ifreq, which lives for the call, and writes a number to it.
        checked(unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCGIFTXQLEN as _, addr_of_mut!(request)) })?;
        // SAFETY: the number is an int at the union's beginning, as `ifru_mtu` is; every bit pattern is a number.
        Ok(usize::try_from(unsafe { request.ifr_ifru.ifru_mtu }).unwrap_or(0))
    }

    /// Changes that.
    ///
    /// # Errors
    /// If it is gone, or we may not.
    pub(crate) fn set_queue(&self, length: usize) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_mtu = libc::c_int::try_from(length).unwrap_or(libc::c_int::MAX); // the int, as above
        // SAFETY: SIOCSIFTXQLEN reads a name and a number from one ifreq, which lives for the call.
        checked(unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCSIFTXQLEN as _, addr_of_mut!(request)) }).map(drop)
    }
}

/// Puts the calling thread ahead of the rest of its process, as far as the system lets us; slower it works as well.
pub(crate) fn hasten() {
    /// `struct sched_attr` of sched_setattr(2), in its first version.
    #[repr(C)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64, // for ordinary threads the length of a slice, from Linux 6.12 on; ignored before
        deadline: u64,
        period: u64,
    }
    // SAFETY: neither call touches memory of ours; 0 is the calling thread.
    let (policy, nice) = unsafe { (libc::sched_getscheduler(0), libc::getpriority(libc::PRIO_PROCESS, 0)) };
    if policy != libc::SCHED_OTHER {
        return; // somebody has chosen what it is
    }
    // SAFETY: as above.
    let ahead = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice - STEPS) == 0 };
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: libc::SCHED_OTHER as u32,
        flags: 0,
        nice: if ahead { (nice - STEPS).max(-20) } else { nice },
        priority: 0,
        runtime: SLICE.as_nanos() as u64,
        deadline: 0,
        period: 0,
    };
    // SAFETY: sched_setattr reads `size` bytes of the attributes, which live for the call.
    let _ = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

/// Says how long the virtio-net header is.
///
/// # Errors
/// What the system says.
pub(crate) fn set_vnet_header_size(tun: &File, size: libc::c_int) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one int, which lives for the call.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETVNETHDRSZ as _, &raw const size) }).map(drop)
}

/// Says what the kernel may leave undone in packets that it gives us.
///
/// # Errors
/// EINVAL for what this kernel does not know.
pub(crate) fn set_offloads(tun: &File, offloads: Offloads) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETOFFLOAD as _, offloads.0) }).map(drop)
}

fn set_option(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: setsockopt reads `size` bytes of `value`, which lives for the call.
    checked(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size) }).map(drop)
}

/// Asks for datagrams of one flow in one piece.
///
/// # Errors
/// Where the kernel cannot (before 5.0).
pub(crate) fn enable_udp_gro(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_UDP, UDP_GRO, 1)
}

/// Makes room for `bytes` that nobody has read yet, beyond the machine's limit if we may.
///
/// # Errors
/// What the system says.
pub(crate) fn set_receive_buffer(fd: BorrowedFd<'_>, bytes: libc::c_int) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
        .or_else(|_| set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes))
}

/// Fills `buffer` with random bytes; false if there are none.
pub(crate) fn random(buffer: &mut [u8]) -> bool {
    // SAFETY: getrandom writes at most `len` bytes to the buffer.
    let got = unsafe { libc::getrandom(buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    usize::try_from(got) == Ok(buffer.len())
}

/// A socket address as the kernel takes it.
#[derive(Clone, Copy)]
pub(crate) struct Address {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        // SAFETY: sockaddr_storage is plain data, for which zeros are valid.
        let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
        let length = match address {
            SocketAddr::V4(v4) => {
                let place: *mut libc::sockaddr_in = addr_of_mut!(storage).cast();
                // SAFETY: sockaddr_storage is at least as large and as aligned as every socket address.
                unsafe {
                    (*place).sin_family = libc::AF_INET as libc::sa_family_t;
                    (*place).sin_port = v4.port().to_be();
                    (*place).sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                }
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let place: *mut libc::sockaddr_in6 = addr_of_mut!(storage).cast();
                // SAFETY: as above.
                unsafe {
                    (*place).sin6_family = libc::AF_INET6 as libc::sa_family_t;
                    (*place).sin6_port = v6.port().to_be();
                    (*place).sin6_flowinfo = v6.flowinfo().to_be();
                    (*place).sin6_addr.s6_addr = v6.ip().octets();
                    (*place).sin6_scope_id = v6.scope_id();
                }
                size_of::<libc::sockaddr_in6>()
            }
        };
        Self { storage, length: length as libc::socklen_t }
    }
}

fn socket_addr(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let place: *const libc::sockaddr_storage = storage;
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says what it is; storage is large and aligned enough for every socket address.
            let v4 = unsafe { &*place.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*place.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let flow = u32::from_be(v6.sin6_flowinfo);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), flow, v6.sin6_scope_id)))
        }
        _ => None,
    }
}

/// Space for one control message that holds an int or less, aligned as the kernel wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Ancillary([u8; 32]);

/// Datagrams in a row for one address: all of `segment` bytes, the last may be shorter.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    /// The datagrams, one behind the other.
    pub(crate) bytes: &'a [u8],
    /// Bytes of each; 0: it is one datagram.
    pub(crate) segment: u16,
    /// Where it goes; None on a connected socket.
    pub(crate) to: Option<Address>,
}

/// Sends up to [`MESSAGES`] runs; returns how many were taken.
///
/// # Errors
/// What the system says to the first of them.
pub(crate) fn send_runs(fd: BorrowedFd<'_>, runs: &[Run<'_>]) -> io::Result<usize> {
    let count = runs.len().min(MESSAGES);
    // SAFETY: these are plain data, for which zeros (and null pointers with a length of 0) are valid.
    let mut messages: [libc::mmsghdr; MESSAGES] = unsafe { zeroed() };
    // SAFETY: as above.
    let mut parts: [libc::iovec; MESSAGES] = unsafe { zeroed() };
    let mut ancillary = [Ancillary([0; 32]); MESSAGES];
    let mut addresses: [MaybeUninit<Address>; MESSAGES] = [const { MaybeUninit::uninit() }; MESSAGES];
    for (n, run) in runs[..count].iter().enumerate() {
        // sendmmsg does not write to what it sends.
        parts[n] = libc::iovec { iov_base: run.bytes.as_ptr().cast_mut().cast(), iov_len: run.bytes.len() };
        let header = &mut messages[n].msg_hdr;
        header.msg_iov = &raw mut parts[n];
        header.msg_iovlen = 1;
        if let Some(address) = run.to {
            let place = addresses[n].write(address);
            header.msg_name = (&raw mut place.storage).cast();
            header.msg_namelen = place.length;
        }
        if run.segment != 0 {
            header.msg_control = ancillary[n].0.as_mut_ptr().cast();
            // SAFETY: CMSG_SPACE and CMSG_LEN only calculate.
            let (space, length) = unsafe { (libc::CMSG_SPACE(2), libc::CMSG_LEN(2)) };
            header.msg_controllen = space as _;
            // SAFETY: `msg_control` has room for one message of `space` <= 32 bytes and is aligned for its header;
            // the data behind the header is written without regard to alignment.
            unsafe {
                let message = libc::CMSG_FIRSTHDR(header);
                (*message).cmsg_level = libc::IPPROTO_UDP;
                (*message).cmsg_type = UDP_SEGMENT;
                (*message).cmsg_len = length as _;
                libc::CMSG_DATA(message).cast::<u16>().write_unaligned(run.segment);
            }
        }
    }
    // SAFETY: the first `count` headers point at parts, addresses and ancillary data that live for the call.
    let sent = unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count as _, libc::MSG_DONTWAIT) };
    checked(sent).map(|sent| sent as usize)
}

/// What one message of [`receive`] holds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Received {
    /// Bytes that it has.
    pub(crate) length: usize,
    /// Bytes of one datagram in it, the last may be shorter; 0: it is one datagram.
    pub(crate) segment: usize,
    /// Who sent it, if that was asked for.
    pub(crate) from: Option<SocketAddr>,
}

/// Receives up to [`MESSAGES`] messages, each into its part of `buffer` (of `size` bytes).
///
/// # Errors
/// What the system says when there is none.
pub(crate) fn receive(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    size: usize,
    addressed: bool,
    into: &mut [Received; MESSAGES],
) -> io::Result<usize> {
    // SAFETY: these are plain data, for which zeros (and null pointers with a length of 0) are valid.
    let mut messages: [libc::mmsghdr; MESSAGES] = unsafe { zeroed() };
    // SAFETY: as above.
    let mut parts: [libc::iovec; MESSAGES] = unsafe { zeroed() };
    // SAFETY: as above.
    let mut addresses: [libc::sockaddr_storage; MESSAGES] = unsafe { zeroed() };
    let mut ancillary = [Ancillary([0; 32]); MESSAGES];
    let mut count = 0;
    for (n, place) in buffer.chunks_exact_mut(size).take(MESSAGES).enumerate() {
        parts[n] = libc::iovec { iov_base: place.as_mut_ptr().cast(), iov_len: size };
        let header = &mut messages[n].msg_hdr;
        header.msg_iov = &raw mut parts[n];
        header.msg_iovlen = 1;
        header.msg_control = ancillary[n].0.as_mut_ptr().cast();
        header.msg_controllen = size_of::<Ancillary>() as _;
        if addressed {
            header.msg_name = (&raw mut addresses[n]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as _;
        }
        count = n + 1;
    }
    let flags = libc::MSG_DONTWAIT;
    // SAFETY: the first `count` headers point at disjoint parts of `buffer`, and at addresses and ancillary data of
    // the lengths given, all of which live for the call.
    let got = unsafe { libc::recvmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count as _, flags, null_mut()) };
    let got = checked(got)? as usize;
    for n in 0..got {
        let header = &messages[n].msg_hdr;
        into[n] = Received {
            length: messages[n].msg_len as usize,
            segment: segment_size(header),
            from: if addressed { socket_addr(&addresses[n]) } else { None },
        };
    }
    Ok(got)
}

fn segment_size(header: &libc::msghdr) -> usize {
    // SAFETY: the kernel has set msg_controllen to what it wrote into the buffer that msg_control points at, which the
    // caller keeps alive; CMSG_FIRSTHDR gives null if that is too short for a message.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(header);
        if message.is_null()
            || (*message).cmsg_level != libc::IPPROTO_UDP
            || (*message).cmsg_type != UDP_GRO
            || ((*message).cmsg_len as usize) < libc::CMSG_LEN(4) as usize
        {
            return 0;
        }
        let size = libc::CMSG_DATA(message).cast::<libc::c_int>().read_unaligned();
        usize::try_from(size).unwrap_or(0)
    }
}

/// A counter that makes a thread look up: eventfd(2).
#[derive(Debug)]
pub(crate) struct Bell(File);

impl Bell {
    /// Makes one.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: eventfd touches no memory of ours.
        let fd = checked(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the call has just made `fd`, which nobody else owns.
        Ok(Self(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Makes it readable.
    pub(crate) fn ring(&self) {
        use std::io::Write;
        // It fails if it was rung 2^64 times and not heard.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Makes it unreadable.
    pub(crate) fn hush(&self) {
        use std::io::Read;
        let _ = (&self.0).read(&mut [0; 8]); // nothing to be read: it was not rung
    }

    /// For polling.
    #[must_use]
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.0.as_fd()
    }
}

/// What a watched descriptor is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Something to be read.
    Read,
    /// Room to write.
    Write,
}

/// Descriptors that are watched: epoll(7), level-triggered.
#[derive(Debug)]
pub(crate) struct Watch(OwnedFd);

impl Watch {
    /// Makes one.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: epoll_create1 touches no memory of ours.
        let fd = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the call has just made `fd`, which nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Watches `fd`, which is called `name` in reports.
    ///
    /// # Errors
    /// What the system says, for one that is watched already too.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, interest: Interest, name: u64) -> io::Result<()> {
        let events = match interest {
            Interest::Read => libc::EPOLLIN,
            Interest::Write => libc::EPOLLOUT,
        };
        let mut event = libc::epoll_event { events: events as u32, u64: name };
        // SAFETY: epoll_ctl reads one event, which lives for the call.
        let done = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event) };
        checked(done).map(drop)
    }

    /// Watches `fd` no longer; nothing happens if it was not watched.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) {
        // SAFETY: for EPOLL_CTL_DEL the event may be null.
        unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_DEL, fd.as_raw_fd(), null_mut()) };
    }

    /// Waits until something is ready or `longest` is over; puts the names of what is ready into `names`.
    ///
    /// # Errors
    /// What the system says; an interruption is not an error.
    pub(crate) fn wait(&self, longest: Option<Duration>, names: &mut Vec<u64>) -> io::Result<()> {
        names.clear();
        // Rounded up, so that a deadline has passed when the wait for it ends.
        let milliseconds = longest
            .map_or(-1, |time| libc::c_int::try_from(time.as_micros().div_ceil(1000)).unwrap_or(libc::c_int::MAX));
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; REPORTS];
        // SAFETY: epoll_wait writes at most REPORTS events to the array.
        let got =
            unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), REPORTS as libc::c_int, milliseconds) };
        let got = match checked(got) {
            Ok(got) => got as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        names.extend(events[..got].iter().map(|event| event.u64));
        Ok(())
    }
}
