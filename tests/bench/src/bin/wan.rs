//! A long, thin link between two network namespaces of one machine, in user space: delay, rate and a queue that drops at its end.
//! Kernels of test machines may lack netem, so two TUN devices are joined by a delay line and a token bucket. Needs root.
//!
//! It creates both devices and prints `up`; then give them addresses and put them into their namespaces:
//! ```text
//! ip link set B netns far
//! ip addr add 10.77.0.1/30 dev A;                    ip link set A up
//! ip netns exec far ip addr add 10.77.0.2/30 dev B;  ip netns exec far ip link set B up
//! ```
//! When it ends the devices are gone: the link is cut.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use bench::options::Options;
use bench::sys;

const USAGE: &str = "wan --a DEVICE --b DEVICE --one-way-ms MS --mbit-per-s RATE --queue-bytes BYTES";
/// The largest IP packet.
const PACKET_BYTES: usize = 65_535;
/// Sleeping is no more exact than this: a packet that is due sooner is delivered now.
const SLEEP_ACCURACY: Duration = Duration::from_micros(150);

/// One direction of the link.
#[derive(Clone, Copy)]
struct Link {
    delay: Duration,
    bytes_per_s: f64,
    /// Waiting to be sent, at most; what comes above that is dropped.
    queue_bytes: f64,
}

/// A packet on its way, and when it arrives.
struct Crossing {
    due: Instant,
    packet: Vec<u8>,
}

fn main() {
    let options = Options::from_command_line(USAGE, &["a", "b", "one-way-ms", "mbit-per-s", "queue-bytes"]);
    let positive = |name| match options.required::<f64>(name) {
        value if value.is_finite() && value > 0.0 => value,
        value => stop(&format!("--{name} {value}: a number above 0 is wanted"), 64),
    };
    let link = Link {
        delay: Duration::from_secs_f64(positive("one-way-ms") / 1e3),
        bytes_per_s: positive("mbit-per-s") * 1e6 / 8.0,
        queue_bytes: positive("queue-bytes"),
    };
    let (a, b) = (options.required::<String>("a"), options.required::<String>("b"));
    if let Err(error) = join(&a, &b, link) {
        stop(&error.to_string(), 1);
    }
}

fn stop(fault: &str, exit_code: i32) -> ! {
    eprintln!("wan: {fault}");
    std::process::exit(exit_code)
}

/// Carries packets both ways until a device fails.
fn join(a: &str, b: &str, link: Link) -> io::Result<()> {
    let open = |name: &str| sys::create_tun(name).map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")));
    let (a, b) = (open(a)?, open(b)?);
    let (ended, end) = mpsc::channel();
    for (from, to) in [(a.try_clone()?, b.try_clone()?), (b, a)] {
        let (queue, arrivals) = mpsc::channel();
        let (sender_ended, receiver_ended) = (ended.clone(), ended.clone());
        thread::spawn(move || sender_ended.send(send(from, &queue, link)));
        thread::spawn(move || receiver_ended.send(deliver(to, &arrivals)));
    }
    println!("up");
    io::stdout().flush()?;
    end.recv().unwrap_or_else(|_| Err(io::Error::other("every direction has ended")))
}

/// Takes packets from a device and notes when each will have crossed. The queue cannot grow beyond the bytes that wait and those that
/// are on their way: rate times delay.
fn send(mut from: File, queue: &Sender<Crossing>, link: Link) -> io::Result<()> {
    let mut packet = vec![0; PACKET_BYTES];
    let mut free_at = Instant::now();
    loop {
        let size = match from.read(&mut packet) {
            Ok(size) => size,
            Err(error) if not_yet_up(&error) => {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        let start = free_at.max(now);
        if (start - now).as_secs_f64() * link.bytes_per_s > link.queue_bytes {
            continue;
        }
        free_at = start + Duration::from_secs_f64(size as f64 / link.bytes_per_s);
        let crossing = Crossing { due: free_at + link.delay, packet: packet[..size].to_vec() };
        if queue.send(crossing).is_err() {
            return Err(io::Error::other("the far end is gone"));
        }
    }
}

fn deliver(mut to: File, arrivals: &Receiver<Crossing>) -> io::Result<()> {
    for Crossing { due, packet } in arrivals {
        let wait = due.saturating_duration_since(Instant::now());
        if wait > SLEEP_ACCURACY {
            thread::sleep(wait);
        }
        match to.write(&packet) {
            Ok(_) => {}
            // A device that is down loses packets, as a link does.
            Err(error) if not_yet_up(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A TUN device answers EIO while it is down, and EBADFD while it moves between namespaces.
fn not_yet_up(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EBADFD))
}
