//! A push as a container engine does it: each blob by POST and PUT, then the manifest.

use super::client::{Client, Response};
use super::image::{Blob, Image, Manifest};

/// Pushes an image, under a tag or by its digest.
pub async fn push(client: &Client, repository: &str, tag: Option<&str>, image: &Image) {
    for blob in &image.blobs {
        push_blob(client, repository, blob).await;
    }
    let answer = push_manifest(client, repository, tag, &image.manifest).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
}

pub async fn push_blob(client: &Client, repository: &str, blob: &Blob) {
    let begun = client.send_with("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], b"").await;
    assert_eq!(begun.status, 202, "{}", begun.text());
    let location = begun.header("location").expect("an upload has a Location");
    let joint = if location.contains('?') { '&' } else { '?' };
    let target = format!("{location}{joint}digest={}", blob.digest());
    let answer = client.send_with("PUT", &target, &[("Content-Type", "application/octet-stream")], &blob.bytes()).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
}

pub async fn push_manifest(client: &Client, repository: &str, tag: Option<&str>, manifest: &Manifest) -> Response {
    let target = format!("/v2/{repository}/manifests/{}", tag.unwrap_or(&manifest.digest));
    client.send_with("PUT", &target, &[("Content-Type", &manifest.media_type)], &manifest.bytes).await
}
