//! A pull as a container engine does it, with every byte compared.

use std::time::{Duration, Instant};

use super::client::Client;
use super::image::Image;

/// Pulls an image by tag: the manifest, then each blob. Returns how long it took.
///
/// # Errors
/// What was answered other than the image's own bytes.
pub async fn pull(client: &Client, repository: &str, tag: &str, image: &Image) -> Result<Duration, String> {
    let started = Instant::now();
    let target = format!("/v2/{repository}/manifests/{tag}");
    let answer = client.try_get(&target).await.map_err(|error| format!("{target}: {error}"))?;
    if answer.status != 200 || answer.body != image.manifest.bytes {
        return Err(format!("{target}: {} {}", answer.status, answer.text()));
    }
    if answer.header("docker-content-digest") != Some(image.digest()) {
        return Err(format!("{target}: another digest: {:?}", answer.head));
    }
    for blob in &image.blobs {
        let target = format!("/v2/{repository}/blobs/{}", blob.digest());
        let mut exchange = client.open("GET", &target, &[]).await.map_err(|error| format!("{target}: {error}"))?;
        if exchange.status != 200 {
            let answer = exchange.whole().await.map_err(|error| format!("{target}: {error}"))?;
            return Err(format!("{target}: {} {}", answer.status, answer.text()));
        }
        let compared = exchange.compare(blob, 0).await.map_err(|error| format!("{target}: {error}"))?;
        if compared.bytes != blob.size_bytes() {
            return Err(format!("{target}: {} of {} bytes", compared.bytes, blob.size_bytes()));
        }
    }
    Ok(started.elapsed())
}
