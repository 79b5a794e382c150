//! The system calls that the standard library does not offer. All `unsafe` of the measuring tools is here.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// `IFNAMSIZ` with its closing zero: the longest device name has 15 bytes.
const NAME_BYTES: usize = 16;
/// `sizeof(struct ifreq)` on 64-bit Linux.
const REQUEST_BYTES: usize = 40;
/// `IFF_TUN | IFF_NO_PI`: whole IP packets without a prefix.
const TUN_WITHOUT_PREFIX: u16 = 0x0001 | 0x1000;
/// `_IOW('T', 202, int)` (linux/if_tun.h).
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// Creates a TUN device. Each read takes one packet from it, each write puts one in. It goes away with the file.
pub fn create_tun(name: &str) -> io::Result<File> {
    if name.is_empty() || name.len() >= NAME_BYTES || name.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a device name has 1 to 15 bytes"));
    }
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = [0_u8; REQUEST_BYTES];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[NAME_BYTES..NAME_BYTES + 2].copy_from_slice(&TUN_WITHOUT_PREFIX.to_ne_bytes());
    // SAFETY: the descriptor is open for the whole call, and TUNSETIFF reads and writes one ifreq, which is as large as `request`.
    let outcome = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    if outcome == 0 { Ok(device) } else { Err(io::Error::last_os_error()) }
}

/// Takes up to `most` bytes from a connection without copying them anywhere (tcp(7), MSG_TRUNC): a client that copies is the
/// bottleneck before the server is. Returns how many; 0 at the end.
pub fn discard(stream: &TcpStream, most: usize) -> io::Result<usize> {
    // SAFETY: with MSG_TRUNC a TCP socket discards the bytes and never writes to the buffer, so it may be null; the descriptor is open
    // for the whole call.
    let count = unsafe { libc::recv(stream.as_raw_fd(), std::ptr::null_mut(), most, libc::MSG_TRUNC) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Processor time that a process has used, in user and kernel, to the nanosecond (clock_getcpuclockid(3)); `/proc` counts hundredths of a
/// second.
pub fn processor_time(pid: u32) -> io::Result<Duration> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut clock = 0;
    // SAFETY: it writes one clock's identifier, for which there is room.
    match unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) } {
        0 => {}
        error => return Err(io::Error::from_raw_os_error(error)),
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes one time, for which there is room.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let whole = u64::try_from(time.tv_sec).unwrap_or_default();
    Ok(Duration::new(whole, u32::try_from(time.tv_nsec).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn discarded_bytes_are_counted_and_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        sender.write_all(b"away, kept").unwrap();
        drop(sender);
        let mut gone = 0;
        while gone < 6 {
            gone += super::discard(&receiver, 6 - gone).unwrap();
        }
        let mut rest = String::new();
        receiver.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "kept");
        assert_eq!(super::discard(&receiver, 1).unwrap(), 0);
    }

    #[test]
    fn processor_time_grows_with_work() {
        let own = std::process::id();
        let before = super::processor_time(own).unwrap();
        let began = std::time::Instant::now();
        while began.elapsed() < std::time::Duration::from_millis(50) {}
        assert!(super::processor_time(own).unwrap() > before);
        assert!(super::processor_time(u32::MAX).is_err());
    }

    #[test]
    fn a_device_needs_a_name_that_fits() {
        assert!(super::create_tun("").is_err());
        assert!(super::create_tun("sixteen-letters-").is_err());
    }
}
