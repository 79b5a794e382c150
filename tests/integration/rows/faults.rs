//! Faults that the machine makes: an fsync that fails, a link that loses packets.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{MIB, own_octet};
use crate::harness::disk::{assert_only_verified, blob_file, wait_for_blob};
use crate::harness::edge::{EdgeProcess, Settings};
use crate::harness::image::Image;
use crate::harness::origin::{Origin, Setup};
use crate::harness::pull::pull;
use crate::harness::script::{Fault, Match};

/// The process that serves from this data folder.
fn process_of(edge: &EdgeProcess) -> Pid {
    let config = edge.data_dir().with_file_name("outport.toml").display().to_string();
    let numbers = fs::read_dir("/proc").expect("a process table").flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let serves = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(&config));
    numbers.into_iter().find(serves).and_then(Pid::from_raw).expect("the edge's process")
}

/// A tracer that makes the system calls that sync fail with EIO in a process, and writes them down.
struct Strace(Child);

impl Strace {
    /// `None`, with the reason on standard error, where processes may not be traced.
    fn attach(pid: Pid, log: &Path) -> Option<Strace> {
        let mut strace = Command::new("strace");
        let calls = ["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO"];
        strace.args(["-f", "-y", "-o"]).arg(log).args(calls).args(["-p", &pid.as_raw_nonzero().to_string()]);
        let started = strace.stdin(Stdio::null()).stderr(Stdio::null()).spawn().and_then(|mut child| {
            std::thread::sleep(Duration::from_millis(500));
            child.try_wait().map(|ended| (child, ended))
        });
        match started {
            Ok((child, None)) => Some(Strace(child)),
            other => {
                eprintln!("skipped: nothing can be traced here: {other:?}");
                None
            }
        }
    }

    /// Lets the process go on by itself.
    fn detach(mut self) {
        kill_process(Pid::from_raw(self.0.id().cast_signed()).expect("a process has a number"), Signal::INT).expect("our own child");
        self.0.wait().expect("our own child");
    }
}

/// For each file whose fsync failed, how often it was tried.
fn failed_syncs(log: &str) -> BTreeMap<String, u32> {
    let mut tries = BTreeMap::new();
    let calls = log.lines().filter(|line| line.contains("sync(") && line.contains("EIO"));
    for path in calls.filter_map(|line| line.split_once('<')?.1.split_once('>').map(|(path, _)| path.to_owned())) {
        *tries.entry(path).or_default() += 1;
    }
    tries
}

#[tokio::test]
async fn fault_fsync_returns_eio() {
    let origin = Origin::start().await;
    let images: Vec<Image> = (0..3).map(|seed| Image::new(seed, &[20_000, 3 * MIB])).collect();
    for (number, image) in images.iter().enumerate() {
        origin.push("app", &format!("v{number}"), image);
    }
    let edge = Settings::new().upstream("origin.test", &origin).spawn().await;
    pull(&edge.client, "origin.test/app", "v0", &images[0]).await.expect("the image");
    wait_for_blob(&edge.data_dir(), images[0].blobs[2].digest()).await;
    let log = edge.data_dir().with_file_name("strace");
    let Some(strace) = Strace::attach(process_of(&edge), &log) else { return };
    for _ in 0..2 {
        pull(&edge.client, "origin.test/app", "v1", &images[1]).await.expect("pulls go on uncached");
        pull(&edge.client, "origin.test/app", "v0", &images[0]).await.expect("what is cached is served");
    }
    assert!(edge.metrics().await.contains("outport_disk_unwritable 1"), "the state is published");
    assert_eq!(blob_file(&edge.data_dir(), images[1].blobs[2].digest()), None, "the file is discarded");
    strace.detach();
    let tries = failed_syncs(&fs::read_to_string(&log).expect("the tracer's log"));
    let of_blobs: Vec<_> = tries.iter().filter(|(path, _)| path.contains("/cache/partial/")).collect();
    assert!(!of_blobs.is_empty(), "{tries:?}");
    assert!(of_blobs.iter().all(|(_, tries)| **tries == 1), "fsync is never tried again: {of_blobs:?}");
    assert_only_verified(&edge.data_dir());

    let since = Instant::now();
    while blob_file(&edge.data_dir(), images[2].blobs[2].digest()).is_none() {
        assert!(since.elapsed() < Duration::from_secs(60), "nothing is cached although the disk is sound again");
        pull(&edge.client, "origin.test/app", "v2", &images[2]).await.expect("the image");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_only_verified(&edge.data_dir());
    edge.finish().await;
}

/// Every twentieth packet from and to an address is dropped, until this is dropped itself.
struct Loss(Ipv4Addr);

impl Loss {
    const DIRECTIONS: [&'static str; 2] = ["--source", "--destination"];

    /// `None`, with the reason on standard error, where the packet filter may not be changed.
    fn at(host: Ipv4Addr) -> Option<Loss> {
        let loss = Loss(host);
        let changed = Loss::DIRECTIONS.iter().all(|direction| loss.rule("--append", direction));
        if !changed {
            eprintln!("skipped: the packet filter cannot be changed here");
        }
        changed.then_some(loss)
    }

    fn rule(&self, change: &str, direction: &str) -> bool {
        let every = ["-m", "statistic", "--mode", "nth", "--every", "20", "--packet", "10", "-j", "DROP"];
        let mut iptables = Command::new("iptables");
        iptables.args(["-w", change, "INPUT", direction, &self.0.to_string()]).args(every).stderr(Stdio::null());
        iptables.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Loss {
    fn drop(&mut self) {
        for direction in Loss::DIRECTIONS {
            if !self.rule("--delete", direction) {
                eprintln!("a rule of the packet filter for {} could not be deleted", self.0);
            }
        }
    }
}

#[tokio::test]
async fn fault_five_percent_loss_at_one_megabit_a_second() {
    let host = Ipv4Addr::new(127, 67, own_octet(), 1);
    let origin = Origin::with(Setup { host, ..Setup::default() }).await;
    let image = Image::new(5, &[1_000, 500_000]);
    origin.push("app", "v1", &image);
    let edge = Settings::new().upstream("origin.test", &origin).spawn().await;
    let Some(loss) = Loss::at(host) else { return };
    origin.script(Match::Blobs, Fault::Slow(125_000));
    let took = pull(&edge.client, "origin.test/app", "v1", &image).await.expect("it completes");
    assert!(took > Duration::from_secs(3), "{took:?}");
    assert_eq!(origin.transfers(image.blobs[2].digest()), 1);
    drop(loss);
    edge.finish().await;
}
