//! Images that are made in memory: real ones, which any client takes, of files with nothing but noise.

use bytes::Bytes;
use serde_json::json;

use crate::oci::Digest;

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What a tar archive is a whole number of.
const TAR_BLOCK_BYTES: usize = 512;

/// A manifest and what it names: the config, then the layers.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub manifest: Blob,
    pub blobs: Vec<Blob>,
}

#[derive(Clone, Debug)]
pub(super) struct Blob {
    pub bytes: Bytes,
    pub digest: Digest,
}

impl Blob {
    fn of(bytes: impl Into<Bytes>) -> Blob {
        let bytes = bytes.into();
        Blob { digest: Digest::sha256(&bytes), bytes }
    }

    fn described(&self, media_type: &str) -> serde_json::Value {
        json!({ "mediaType": media_type, "digest": self.digest.to_string(), "size": self.bytes.len() })
    }
}

impl Image {
    /// An image whose layers hold a file each, of these sizes. The same seed makes the same image.
    pub fn noise(seed: u64, file_sizes: &[usize]) -> Image {
        let mut random = fastrand::Rng::with_seed(seed);
        let layers: Vec<Blob> = file_sizes.iter().enumerate().map(|(number, size)| Blob::of(layer(number, *size, &mut random))).collect();
        let config = Blob::of(config(&layers).to_string());
        let described: Vec<_> = layers.iter().map(|layer| layer.described(LAYER)).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.described(CONFIG),
            "layers": described,
        });
        Image { manifest: Blob::of(manifest.to_string()), blobs: std::iter::once(config).chain(layers).collect() }
    }

    pub fn size_bytes(&self) -> usize {
        self.blobs.iter().map(|blob| blob.bytes.len()).sum()
    }
}

fn config(layers: &[Blob]) -> serde_json::Value {
    // Layers that are not compressed are their own diffs.
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.digest.to_string()).collect();
    json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
}

/// A tar archive with one file.
fn layer(number: usize, size_bytes: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut archive = file_header(&format!("noise-{number}"), size_bytes).to_vec();
    let start = archive.len();
    archive.resize(start + size_bytes, 0);
    random.fill(&mut archive[start..]);
    // Two blocks of zeros end an archive (pax, "ustar Interchange Format").
    archive.resize(archive.len().next_multiple_of(TAR_BLOCK_BYTES) + 2 * TAR_BLOCK_BYTES, 0);
    archive
}

fn file_header(name: &str, size_bytes: usize) -> [u8; TAR_BLOCK_BYTES] {
    let mut header = [0; TAR_BLOCK_BYTES];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size_bytes:011o}\0"));
    put(136, "00000000000\0");
    // The checksum is taken over a field of spaces.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn an_image_is_what_its_manifest_says() {
        let image = Image::noise(1, &[100_000, 0, 512]);
        let manifest: Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
        let named = std::iter::once(&manifest["config"]).chain(manifest["layers"].as_array().unwrap());
        for (descriptor, blob) in named.zip(&image.blobs) {
            assert_eq!(descriptor["digest"], blob.digest.to_string());
            assert_eq!((descriptor["size"].as_u64(), blob.digest), (Some(blob.bytes.len() as u64), Digest::sha256(&blob.bytes)));
        }
        assert_eq!(image.blobs.len(), 4);
        let config: Value = serde_json::from_slice(&image.blobs[0].bytes).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][2], image.blobs[3].digest.to_string());
        assert_eq!(image.size_bytes(), image.blobs.iter().map(|blob| blob.bytes.len()).sum::<usize>());
    }

    #[test]
    fn a_seed_makes_one_image() {
        let digest = |seed| Image::noise(seed, &[1_000]).manifest.digest;
        assert_eq!(digest(1), digest(1));
        assert_ne!(digest(1), digest(2));
    }

    #[test]
    fn a_layer_is_an_archive_that_tar_reads() {
        let folder = std::env::temp_dir().join(format!("outport-layer-{}", ulid::Ulid::generate()));
        std::fs::create_dir(&folder).unwrap();
        let image = Image::noise(3, &[70_001]);
        std::fs::write(folder.join("layer.tar"), &image.blobs[1].bytes).unwrap();
        let done = std::process::Command::new("tar").args(["-xf", "layer.tar"]).current_dir(&folder).status().unwrap();
        let read = std::fs::read(folder.join("noise-0")).unwrap_or_default();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(done.success());
        assert!(read == image.blobs[1].bytes[512..512 + 70_001]);
    }
}
