//! The disk fails, fills up, forgets or lies, or the process dies: pulls go on, and no wrong byte is ever served.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::disk::{assert_only_verified, blob_file, files, flip, wait_for_blob, wrong_files};
use crate::harness::edge::{EdgeProcess, Settings};
use crate::harness::image::{Image, digest_of};
use crate::harness::mount::Loop;
use crate::harness::origin::Origin;
use crate::harness::pull::pull;
use crate::harness::script::{Fault, Match};

const MIB: u64 = 1 << 20;
/// Within this time the index on the disk tells of a blob that has arrived.
const INDEX_TIME: Duration = Duration::from_secs(1);

async fn pulled(edge: &EdgeProcess, tag: &str, image: &Image) {
    pull(&edge.client, "origin.test/app", tag, image).await.expect("an image");
}

/// A number that depends on the round only.
fn scattered(round: u64, below: u64) -> u64 {
    round.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) % below
}

#[tokio::test]
async fn killed_during_fills_again_and_again() {
    let rounds = if std::env::var_os("OUTPORT_FULL").is_some() { 100 } else { 8 };
    let origin = Origin::start().await;
    let mut edge = Settings::new().upstream("origin.test", &origin).spawn().await;
    for round in 0..rounds {
        let image = Image::new(round, &[20_000, 3 * MIB, 6 * MIB]);
        origin.push("app", &format!("v{round}"), &image);
        origin.script(Match::Blobs, Fault::Slow(20 * MIB));
        let (client, tag, under_way) = (edge.client.clone(), format!("v{round}"), image.clone());
        let pulling = tokio::spawn(async move { pull(&client, "origin.test/app", &tag, &under_way).await });
        tokio::time::sleep(Duration::from_millis(scattered(round, 600))).await;
        edge.kill();
        // It was killed at any point: the pull may have been complete.
        let _ = pulling.await.expect("no wrong byte");
        assert_only_verified(&edge.data_dir());
        origin.clear();
        edge.start_again().await;
        pulled(&edge, &format!("v{round}"), &image).await;
        for blob in &image.blobs[1..] {
            wait_for_blob(&edge.data_dir(), blob.digest()).await;
        }
        // The index is written behind, a moment later; what a kill takes of it is only fetched once more.
        tokio::time::sleep(INDEX_TIME).await;
    }
    assert_only_verified(&edge.data_dir());
    let partial = files(&edge.data_dir().join("cache/partial"));
    assert!(partial.is_empty(), "left half written: {partial:?}");
    origin.forget_requests();
    for round in 0..rounds {
        pulled(&edge, &format!("v{round}"), &Image::new(round, &[20_000, 3 * MIB, 6 * MIB])).await;
    }
    assert_eq!(origin.count(&Match::Blobs.get()), 0, "what was complete before a kill is still cached");
    edge.finish().await;
}

/// Pulls go on while nothing can be written to `disk`; when `free` has made room, blobs are cached again.
async fn unwritable(disk: &Loop, exhaust: impl FnOnce(&Loop), free: impl FnOnce(&Loop)) {
    let origin = Origin::start().await;
    let images: Vec<_> = (0..3).map(|seed| Image::new(seed, &[20_000, 4 * MIB])).collect();
    for (number, image) in images.iter().enumerate() {
        origin.push("app", &format!("v{number}"), image);
    }
    let edge = Settings::new().data_dir(&disk.path().join("data")).upstream("origin.test", &origin).spawn().await;
    pulled(&edge, "v0", &images[0]).await;
    wait_for_blob(&edge.data_dir(), images[0].blobs[2].digest()).await;
    exhaust(disk);
    for _ in 0..2 {
        pulled(&edge, "v0", &images[0]).await;
        pulled(&edge, "v1", &images[1]).await;
    }
    assert_eq!(origin.transfers(images[0].blobs[2].digest()), 1, "what is cached stays cached");
    assert_only_verified(&edge.data_dir());
    assert_eq!(blob_file(&edge.data_dir(), images[1].blobs[2].digest()), None);
    assert!(edge.metrics().await.contains("outport_disk_unwritable 1"), "the state is published");
    free(disk);
    let since = Instant::now();
    while blob_file(&edge.data_dir(), images[2].blobs[2].digest()).is_none() {
        assert!(since.elapsed() < Duration::from_secs(60), "nothing is cached although there is room again");
        pulled(&edge, "v2", &images[2]).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(edge.metrics().await.contains("outport_disk_unwritable 0"), "the state is published");
    assert_only_verified(&edge.data_dir());
    edge.finish().await;
}

#[tokio::test]
async fn disk_full() {
    let Some(disk) = Loop::mount(64 * MIB, &[]) else { return };
    let filler = disk.path().join("filler");
    unwritable(&disk, |disk| drop(disk.fill(MIB)), |_| fs::remove_file(filler).expect("our own file")).await;
}

#[tokio::test]
async fn inodes_exhausted() {
    let Some(disk) = Loop::mount(64 * MIB, &["-N", "700"]) else { return };
    let folder = disk.path().join("fillers");
    let exhaust = |_: &Loop| {
        fs::create_dir(&folder).expect("a folder");
        let mut number = 0;
        while fs::File::create(folder.join(number.to_string())).is_ok() {
            number += 1;
        }
    };
    unwritable(&disk, exhaust, |_| fs::remove_dir_all(&folder).expect("our own folder")).await;
}

#[tokio::test]
async fn a_cache_larger_than_its_disk_evicts_and_goes_on() {
    let Some(disk) = Loop::mount(64 * MIB, &[]) else { return };
    let origin = Origin::start().await;
    let edge = Settings::new().data_dir(&disk.path().join("data")).upstream("origin.test", &origin).spawn().await;
    for seed in 0..30 {
        let image = Image::new(seed, &[4 * MIB]);
        origin.push("app", &format!("v{seed}"), &image);
        pulled(&edge, &format!("v{seed}"), &image).await;
    }
    assert_only_verified(&edge.data_dir());
    edge.finish().await;
}

#[tokio::test]
async fn a_cache_at_its_limit_evicts_and_stays_below_it() {
    let origin = Origin::start().await;
    let edge = Settings::new().cache("disk = \"64MiB\"").upstream("origin.test", &origin).spawn().await;
    let image_of = |seed| Image::new(seed, &[6 * MIB]);
    for seed in 0..24 {
        origin.push("app", &format!("v{seed}"), &image_of(seed));
        pulled(&edge, &format!("v{seed}"), &image_of(seed)).await;
    }
    wait_for_blob(&edge.data_dir(), image_of(23).blobs[1].digest()).await;
    let since = Instant::now();
    loop {
        let held: u64 =
            files(&edge.data_dir().join("cache/blobs")).iter().filter_map(|path| fs::metadata(path).ok()).map(|file| file.len()).sum();
        if held <= 64 * MIB {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "{} MiB are held", held / MIB);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    pulled(&edge, "v0", &image_of(0)).await;
    assert_only_verified(&edge.data_dir());
    edge.finish().await;
}

#[tokio::test]
async fn a_file_system_turned_read_only() {
    let Some(disk) = Loop::mount(64 * MIB, &[]) else { return };
    let origin = Origin::start().await;
    let (cached, other) = (Image::new(1, &[20_000, 4 * MIB]), Image::new(2, &[20_000, 4 * MIB]));
    origin.push("app", "v1", &cached);
    origin.push("app", "v2", &other);
    let edge = Settings::new().data_dir(&disk.path().join("data")).upstream("origin.test", &origin).spawn().await;
    pulled(&edge, "v1", &cached).await;
    wait_for_blob(&edge.data_dir(), cached.blobs[2].digest()).await;
    // As after a fault of the medium: the kernel remounts it, and files that are open for writing fail.
    let device = Path::new(&disk.device).file_name().expect("a device").to_string_lossy().into_owned();
    fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "test").expect("the kernel's switch for faults");
    assert!(fs::write(disk.path().join("probe"), "x").is_err(), "the file system takes no writes");
    for _ in 0..2 {
        pulled(&edge, "v1", &cached).await;
        pulled(&edge, "v2", &other).await;
    }
    assert_eq!(origin.transfers(cached.blobs[2].digest()), 1, "reads go on from the disk");
    assert!(edge.metrics().await.contains("outport_disk_unwritable 1"));
    edge.finish().await;
}

#[tokio::test]
async fn a_removed_cache_file_is_a_miss() {
    let origin = Origin::start().await;
    let image = Image::new(1, &[3 * MIB]);
    origin.push("app", "v1", &image);
    let edge = Settings::new().upstream("origin.test", &origin).spawn().await;
    pulled(&edge, "v1", &image).await;
    fs::remove_file(wait_for_blob(&edge.data_dir(), image.blobs[1].digest()).await).expect("a cached file");
    pulled(&edge, "v1", &image).await;
    wait_for_blob(&edge.data_dir(), image.blobs[1].digest()).await;
    assert_eq!(origin.transfers(image.blobs[1].digest()), 2);
    edge.finish().await;
}

/// After a byte was flipped no wrong blob is completed, and soon the right one is served and kept again.
async fn assert_flipped_is_refetched(edge: &EdgeProcess, image: &Image) {
    let blob = &image.blobs[1];
    let path = format!("/v2/origin.test/app/blobs/{}", blob.digest());
    let since = Instant::now();
    loop {
        // A body may be cut; one that is completed is right.
        match edge.client.try_get(&path).await {
            Ok(answer) if answer.status == 200 => {
                assert_eq!(digest_of(&answer.body), blob.digest(), "a wrong blob was completed");
                if wrong_files(&edge.data_dir()).is_empty() && blob_file(&edge.data_dir(), blob.digest()).is_some() {
                    return;
                }
            }
            _ => {}
        }
        assert!(since.elapsed() < Duration::from_secs(10), "it is not fetched again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_flipped_byte_is_never_served() {
    let origin = Origin::start().await;
    let image = Image::new(1, &[3 * MIB]);
    origin.push("app", "v1", &image);
    let edge = Settings::new().upstream("origin.test", &origin).spawn().await;
    pulled(&edge, "v1", &image).await;
    flip(&wait_for_blob(&edge.data_dir(), image.blobs[1].digest()).await);
    assert_flipped_is_refetched(&edge, &image).await;
    assert_eq!(origin.transfers(image.blobs[1].digest()), 2);
    assert!(edge.metrics().await.contains("outport_cache_corrupt_total 1"), "it is counted");
    edge.finish().await;
}

#[tokio::test]
async fn a_byte_flipped_while_stopped_is_never_served() {
    let origin = Origin::start().await;
    let image = Image::new(1, &[3 * MIB]);
    origin.push("app", "v1", &image);
    let mut edge = Settings::new().upstream("origin.test", &origin).spawn().await;
    pulled(&edge, "v1", &image).await;
    let file = wait_for_blob(&edge.data_dir(), image.blobs[1].digest()).await;
    edge.kill();
    flip(&file);
    edge.start_again().await;
    assert_flipped_is_refetched(&edge, &image).await;
    edge.finish().await;
}

#[tokio::test]
async fn a_removed_index_is_rebuilt() {
    let origin = Origin::start().await;
    let image = Image::new(1, &[20_000, 3 * MIB]);
    origin.push("app", "v1", &image);
    let mut edge = Settings::new().upstream("origin.test", &origin).spawn().await;
    pulled(&edge, "v1", &image).await;
    wait_for_blob(&edge.data_dir(), image.blobs[2].digest()).await;
    edge.kill();
    fs::remove_file(edge.data_dir().join("cache/index.redb")).expect("the index");
    edge.start_again().await;
    pulled(&edge, "v1", &image).await;
    assert_only_verified(&edge.data_dir());
    edge.kill();
    fs::write(edge.data_dir().join("cache/index.redb"), vec![0x5a; 100_000]).expect("a writable folder");
    edge.start_again().await;
    pulled(&edge, "v1", &image).await;
    assert_only_verified(&edge.data_dir());
    edge.finish().await;
}

#[tokio::test]
async fn the_cache_folder_deleted_while_stopped() {
    let origin = Origin::start().await;
    let image = Image::new(1, &[20_000, 3 * MIB]);
    origin.push("app", "v1", &image);
    let mut edge = Settings::new().upstream("origin.test", &origin).spawn().await;
    pulled(&edge, "v1", &image).await;
    edge.kill();
    fs::remove_dir_all(edge.data_dir()).expect("our own folder");
    edge.start_again().await;
    pulled(&edge, "v1", &image).await;
    wait_for_blob(&edge.data_dir(), image.blobs[2].digest()).await;
    edge.finish().await;
}

#[tokio::test]
async fn the_cache_folder_deleted_while_running() {
    let origin = Origin::start().await;
    let image = Image::new(1, &[20_000, 3 * MIB]);
    origin.push("app", "v1", &image);
    let edge = Settings::new().upstream("origin.test", &origin).spawn().await;
    pulled(&edge, "v1", &image).await;
    wait_for_blob(&edge.data_dir(), image.blobs[2].digest()).await;
    fs::remove_dir_all(edge.data_dir().join("cache")).expect("our own folder");
    for _ in 0..3 {
        pulled(&edge, "v1", &image).await;
    }
    edge.finish().await;
}
