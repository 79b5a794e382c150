//! What lies in an edge's cache folder, seen from outside.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::image::digest_of;

/// All files below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        // What is removed meanwhile is not there.
        let Ok(entries) = std::fs::read_dir(next) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

/// The file of a cached blob, if there is one.
pub fn blob_file(data_dir: &Path, digest: &str) -> Option<PathBuf> {
    let hex = digest.split(':').nth(1).unwrap_or(digest);
    files(&data_dir.join("cache/blobs")).into_iter().find(|path| path.file_name().is_some_and(|name| name == hex))
}

/// Waits until a blob has its file.
pub async fn wait_for_blob(data_dir: &Path, digest: &str) -> PathBuf {
    let started = Instant::now();
    loop {
        if let Some(path) = blob_file(data_dir, digest) {
            return path;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{digest} is not cached: {:?}", files(data_dir));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The files under a digest's name that do not have that digest.
pub fn wrong_files(data_dir: &Path) -> Vec<PathBuf> {
    let is_wrong = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // What is evicted meanwhile is not there.
        std::fs::read(path).is_ok_and(|bytes| digest_of(&bytes) != format!("sha256:{name}"))
    };
    files(&data_dir.join("cache/blobs/sha256")).into_iter().filter(is_wrong).collect()
}

/// One byte in the middle of a file becomes another one.
pub fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let mut permissions = std::fs::metadata(path).expect("a file").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o640);
    std::fs::set_permissions(path, permissions).expect("our own file");
    let mut file = std::fs::File::options().write(true).open(path).expect("a file");
    file.seek(SeekFrom::Start(middle as u64)).expect("a seekable file");
    file.write_all(&bytes[middle..=middle]).expect("a writable file");
    file.sync_all().expect("a writable file");
}

/// Every file under a digest's name has that digest.
pub fn assert_only_verified(data_dir: &Path) {
    assert_eq!(wrong_files(data_dir), Vec::<PathBuf>::new(), "these do not hold what their names say");
}

/// Nothing of a blob is kept: no file under its name, and nothing half written once the transfer is given up.
pub async fn assert_not_cached(data_dir: &Path, digest: &str) {
    assert_eq!(blob_file(data_dir, digest), None);
    all_written(data_dir).await;
    assert_only_verified(data_dir);
}

/// Waits until nothing is half written: what clients have been given whole may still be on its way to the disk.
pub async fn all_written(data_dir: &Path) {
    let started = Instant::now();
    loop {
        let partial = files(&data_dir.join("cache/partial"));
        if partial.is_empty() {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "left half written: {partial:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether any file of the cache contains this text.
pub fn contains(data_dir: &Path, text: &str) -> bool {
    let holds = |path: &PathBuf| std::fs::read(path).is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()));
    files(data_dir).iter().any(holds)
}
