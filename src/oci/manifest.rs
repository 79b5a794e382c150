//! Manifests: what an image or an index refers to (image-spec 1.1, manifest.md and image-index.md).
//!
//! The bytes of a manifest are its identity, so they are kept and sent as they came; this module only reads them. Reading is
//! lenient, as for content that somebody else accepted: unknown fields are passed over, at any depth and in constant stack. What is
//! accepted here from those who push is judged by [`PushedManifest`](super::PushedManifest).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Digest;

/// The largest manifest: 4 MiB, the least that the distribution specification asks a registry to accept.
pub const MAX_MANIFEST_BYTES: usize = 4 * 1024 * 1024;

pub const INDEX_MEDIA_TYPE: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const IMAGE_MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const DOCKER_LIST_MEDIA_TYPE: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const DOCKER_IMAGE_MEDIA_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// The withdrawn artifact manifest of image-spec 1.1-rc: still found in registries, read as an image whose layers are `blobs`.
pub(super) const ARTIFACT_MEDIA_TYPE: &str = "application/vnd.oci.artifact.manifest.v1+json";

/// A manifest of either kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Manifest {
    Image(Box<ImageManifest>),
    Index(Box<ImageIndex>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct ImageManifest {
    pub config: Option<Descriptor>,
    pub layers: Vec<Descriptor>,
    pub subject: Option<Descriptor>,
    /// `artifactType`, or the config's media type (distribution-spec, "Listing Referrers").
    pub artifact_type: Option<String>,
    pub annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ImageIndex {
    pub manifests: Vec<Descriptor>,
    pub subject: Option<Descriptor>,
    pub artifact_type: Option<String>,
    pub annotations: Option<BTreeMap<String, String>>,
}

/// A reference to a content by digest (image-spec, descriptor.md).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    /// Where else the content lies: such a layer is foreign, not demanded and never fetched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Why bytes are not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("a manifest has at most {MAX_MANIFEST_BYTES} bytes")]
    TooLarge,
    #[error("{0:?} is not a manifest's media type")]
    MediaType(String),
    #[error("not a manifest: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the manifest says that it is {inside}, its Content-Type says {outside}")]
    Disagreement { inside: String, outside: String },
    #[error("`manifests` and `layers` stand together")]
    Both,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    media_type: Option<String>,
    config: Option<Descriptor>,
    #[serde(alias = "blobs")]
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

/// Whether a Content-Type, its parameters aside, names one of the manifests that this program can read.
pub fn is_manifest_media_type(content_type: &str) -> bool {
    matches!(
        essence(content_type),
        IMAGE_MEDIA_TYPE | INDEX_MEDIA_TYPE | DOCKER_IMAGE_MEDIA_TYPE | DOCKER_LIST_MEDIA_TYPE | ARTIFACT_MEDIA_TYPE
    )
}

/// A media type without its parameters.
pub(super) fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

impl Manifest {
    /// The media types to accept from an upstream, as one `Accept` header: a list that lacks one of them makes some registries
    /// convert what they hold, which would change its digest.
    pub const ACCEPT: &'static str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
         application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, \
         application/vnd.oci.artifact.manifest.v1+json";

    /// Reads a manifest that came with `content_type`.
    pub fn parse(bytes: &[u8], content_type: &str) -> Result<Manifest, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge);
        }
        if !is_manifest_media_type(content_type) {
            return Err(ManifestError::MediaType(content_type.to_owned()));
        }
        let outside = essence(content_type);
        let fields: Fields = serde_json::from_slice(bytes)?;
        if let Some(inside) = fields.media_type.filter(|inside| inside != outside) {
            return Err(ManifestError::Disagreement { inside, outside: outside.to_owned() });
        }
        if fields.manifests.is_some() && fields.layers.is_some() {
            return Err(ManifestError::Both);
        }
        let is_index = matches!(outside, INDEX_MEDIA_TYPE | DOCKER_LIST_MEDIA_TYPE);
        Ok(if is_index {
            Manifest::Index(Box::new(ImageIndex {
                manifests: fields.manifests.unwrap_or_default(),
                subject: fields.subject,
                artifact_type: fields.artifact_type,
                annotations: fields.annotations,
            }))
        } else {
            Manifest::Image(Box::new(ImageManifest {
                artifact_type: or_config_type(fields.artifact_type, fields.config.as_ref()),
                layers: fields.layers.unwrap_or_default(),
                config: fields.config,
                subject: fields.subject,
                annotations: fields.annotations,
            }))
        })
    }

    /// The blobs that a client fetches after this manifest, in its order; none for an index, none that are foreign.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let image = match self {
            Manifest::Image(image) => Some(image.as_ref()),
            Manifest::Index(_) => None,
        };
        image.into_iter().flat_map(|image| image.config.iter().chain(&image.layers)).filter(|blob| blob.urls.is_empty())
    }
}

/// An image's `artifactType`, or where that is empty or missing, its config's media type (distribution-spec, "Listing Referrers").
pub(super) fn or_config_type(artifact_type: Option<String>, config: Option<&Descriptor>) -> Option<String> {
    artifact_type.filter(|text| !text.is_empty()).or_else(|| config.map(|config| config.media_type.clone())).filter(|text| !text.is_empty())
}

/// An image index over `manifests`: the body of a referrers answer (distribution-spec, "Listing Referrers").
pub fn referrers_index(manifests: &[Descriptor]) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Index<'a> {
        schema_version: u8,
        media_type: &'static str,
        manifests: &'a [Descriptor],
    }
    let index = Index { schema_version: 2, media_type: INDEX_MEDIA_TYPE, manifests };
    serde_json::to_vec(&index).expect("an index of descriptors has only string keys")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(text: &str) -> String {
        format!(r#"{{"mediaType":"x/y","digest":"{}","size":{}}}"#, Digest::sha256(text.as_bytes()), text.len())
    }

    #[test]
    fn an_image_names_its_config_and_its_own_layers() {
        let foreign = descriptor("foreign").replace('}', r#","urls":["http://169.254.169.254/"]}"#);
        let json =
            format!(r#"{{"schemaVersion":2,"config":{},"layers":[{},{foreign}],"x":[[[]]]}}"#, descriptor("config"), descriptor("layer"));
        let manifest = Manifest::parse(json.as_bytes(), "application/vnd.oci.image.manifest.v1+json; charset=utf-8").unwrap();
        let blobs: Vec<_> = manifest.blobs().map(|blob| blob.digest).collect();
        assert_eq!(blobs, [Digest::sha256(b"config"), Digest::sha256(b"layer")]);
        assert!(matches!(manifest, Manifest::Image(image) if image.artifact_type.as_deref() == Some("x/y")));
    }

    #[test]
    fn what_is_not_a_manifest_is_refused() {
        let both = r#"{"manifests":[],"layers":[]}"#;
        let inside = r#"{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
        for (json, content_type) in [
            ("{}", "text/html"),
            ("<html>", IMAGE_MEDIA_TYPE),
            ("[]", IMAGE_MEDIA_TYPE),
            (both, INDEX_MEDIA_TYPE),
            (inside, IMAGE_MEDIA_TYPE),
            (r#"{"layers":[{"digest":"sha256:0","size":1}]}"#, IMAGE_MEDIA_TYPE),
            (
                r#"{"config":{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":-1}}"#,
                IMAGE_MEDIA_TYPE,
            ),
        ] {
            assert!(Manifest::parse(json.as_bytes(), content_type).is_err(), "{json}");
        }
        assert!(matches!(Manifest::parse(&vec![b' '; MAX_MANIFEST_BYTES + 1], IMAGE_MEDIA_TYPE), Err(ManifestError::TooLarge)));
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(1_000_000), "]".repeat(1_000_000));
        // Either answer is right; a stack overflow is not.
        let _ = Manifest::parse(deep.as_bytes(), IMAGE_MEDIA_TYPE);
    }

    #[test]
    fn a_referrers_index_reads_back() {
        let entry: Descriptor = serde_json::from_str(&descriptor("signature")).unwrap();
        let bytes = referrers_index(std::slice::from_ref(&entry));
        assert!(matches!(Manifest::parse(&bytes, INDEX_MEDIA_TYPE), Ok(Manifest::Index(index)) if index.manifests == [entry]));
    }
}
