//! What a pushed manifest must be, and what it needs of its repository.
//!
//! Reading what somebody else accepted is lenient ([`Manifest::parse`](super::Manifest::parse)); accepting is strict, so that every
//! client reads the same in what is kept here, and so that all of a manifest's references are known before it becomes visible.
//!
//! A media type that is not one of the five known ones is refused. Distribution-spec 1.1 demands no others ("Examples of manifests are
//! defined under the OCI Image Spec"), and the references of an unknown one could neither be checked nor kept from collection. What is
//! new travels as an image with an `artifactType` (image-spec 1.1, "Guidelines for Artifact Usage").

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::manifest::{
    ARTIFACT_MEDIA_TYPE, DOCKER_IMAGE_MEDIA_TYPE, DOCKER_LIST_MEDIA_TYPE, Descriptor, IMAGE_MEDIA_TYPE, INDEX_MEDIA_TYPE,
    MAX_MANIFEST_BYTES, essence, is_manifest_media_type, or_config_type,
};
use super::{Digest, json};

/// The largest size that a descriptor may tell: Go's clients read it as a signed number (image-spec, descriptor.md: "int64").
const MAX_SIZE_BYTES: u64 = i64::MAX as u64;
/// Characters of a media type that are repeated to the client.
const MAX_SHOWN_CHARS: usize = 100;

/// A manifest that may be kept, once what it refers to is here.
#[derive(Clone, Debug, PartialEq)]
pub struct PushedManifest {
    /// Without parameters: what it is served with.
    pub media_type: &'static str,
    pub size_bytes: u64,
    /// Blobs that must be in the repository: the config, the layers that are not foreign, and what an index lists that is no manifest
    /// (BuildKit keeps its cache so). Each digest once, in the manifest's order.
    pub blobs: Vec<Descriptor>,
    /// Manifests that an index lists. Each digest once.
    pub manifests: Vec<Descriptor>,
    /// Layers that lie elsewhere: not demanded and never fetched. One that was pushed all the same is kept like any other blob.
    pub foreign: Vec<Descriptor>,
    /// What this is about. It need not be here (distribution-spec, "Push").
    pub subject: Option<Descriptor>,
    /// As "Listing Referrers" of the distribution-spec has it: an image without one has its config's media type, an index none.
    pub artifact_type: Option<String>,
    pub annotations: BTreeMap<String, String>,
}

/// Why a manifest is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidManifest {
    #[error("a manifest has at most {MAX_MANIFEST_BYTES} bytes")]
    TooLarge,
    #[error("neither a Content-Type nor a mediaType tells what the manifest is")]
    Untyped,
    #[error("{0:?} is not a manifest's media type")]
    MediaType(String),
    #[error("the manifest says that it is {inside:?}, its Content-Type says {outside:?}")]
    Disagreement { inside: String, outside: String },
    #[error("not a manifest: {0}")]
    Json(String),
    #[error("schemaVersion is 2")]
    SchemaVersion,
    #[error("`{field}` does not belong in a manifest of this type")]
    Misplaced { field: &'static str },
    #[error("an image has a config")]
    NoConfig,
    #[error("the size of {0} is impossible")]
    Size(Digest),
    #[error("{0} stands twice, with different sizes")]
    TwoSizes(Digest),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Image,
    Index,
    Artifact,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    /// Docker's schema 1, which is not supported: with it an image could be two.
    fs_layers: Option<IgnoredAny>,
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

impl PushedManifest {
    /// Judges the body of a push. `content_type` is the request's, where it has one.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<PushedManifest, InvalidManifest> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(InvalidManifest::TooLarge);
        }
        let outside = content_type.map(essence).filter(|outside| !outside.is_empty());
        if let Some(outside) = outside.filter(|outside| !is_manifest_media_type(outside)) {
            return Err(InvalidManifest::MediaType(shown(outside)));
        }
        json::check(bytes).map_err(InvalidManifest::Json)?;
        let fields: Fields = serde_json::from_slice(bytes).map_err(|error| InvalidManifest::Json(json::complaint(&error)))?;
        let media_type = media_type(outside, fields.media_type.as_deref())?;
        let shape = Shape::of(media_type);
        fields.check(shape)?;
        let artifact_type = fields.artifact_type.filter(|text| !text.is_empty());
        let mut references = References::default();
        let artifact_type = match shape {
            Shape::Image => {
                let config = fields.config.ok_or(InvalidManifest::NoConfig)?;
                let artifact_type = or_config_type(artifact_type, Some(&config));
                references.add(Need::Blob, config)?;
                references.add_all(fields.layers, layer_need)?;
                artifact_type
            }
            Shape::Artifact => {
                references.add_all(fields.blobs, layer_need)?;
                artifact_type
            }
            Shape::Index => {
                references.add_all(fields.manifests, child_need)?;
                artifact_type
            }
        };
        if let Some(subject) = &fields.subject {
            check_size(subject)?;
        }
        Ok(PushedManifest {
            media_type,
            size_bytes: bytes.len() as u64,
            blobs: references.blobs,
            manifests: references.manifests,
            foreign: references.foreign,
            subject: fields.subject,
            artifact_type,
            annotations: fields.annotations.unwrap_or_default(),
        })
    }

    /// All that it may need of its repository: blobs, manifests, and the foreign layers that somebody pushed all the same. Not its subject.
    pub fn references(&self) -> impl Iterator<Item = &Descriptor> {
        self.blobs.iter().chain(&self.manifests).chain(&self.foreign)
    }

    /// How a list of referrers names it (distribution-spec, "Listing Referrers").
    pub fn descriptor(&self, digest: Digest) -> Descriptor {
        Descriptor {
            media_type: self.media_type.to_owned(),
            digest,
            size: self.size_bytes,
            urls: Vec::new(),
            platform: None,
            artifact_type: self.artifact_type.clone(),
            annotations: (!self.annotations.is_empty()).then(|| self.annotations.clone()),
        }
    }
}

impl Shape {
    fn of(media_type: &'static str) -> Shape {
        match media_type {
            INDEX_MEDIA_TYPE | DOCKER_LIST_MEDIA_TYPE => Shape::Index,
            ARTIFACT_MEDIA_TYPE => Shape::Artifact,
            _ => Shape::Image,
        }
    }
}

impl Fields {
    /// What belongs to another shape is refused: a reader that looks there would see another manifest (CVE-2021-41190).
    fn check(&self, shape: Shape) -> Result<(), InvalidManifest> {
        let fields = [
            ("config", self.config.is_some(), shape == Shape::Image),
            ("layers", self.layers.is_some(), shape == Shape::Image),
            ("manifests", self.manifests.is_some(), shape == Shape::Index),
            ("blobs", self.blobs.is_some(), shape == Shape::Artifact),
            ("fsLayers", self.fs_layers.is_some(), false),
        ];
        if let Some((field, ..)) = fields.into_iter().find(|(_, there, belongs)| *there && !belongs) {
            return Err(InvalidManifest::Misplaced { field });
        }
        // The artifact manifest has none.
        let expected = if shape == Shape::Artifact { None } else { Some(2) };
        if self.schema_version == expected || self.schema_version == Some(2) { Ok(()) } else { Err(InvalidManifest::SchemaVersion) }
    }
}

/// The one type that Content-Type and `mediaType` agree on.
fn media_type(outside: Option<&str>, inside: Option<&str>) -> Result<&'static str, InvalidManifest> {
    if let (Some(outside), Some(inside)) = (outside, inside)
        && outside != inside
    {
        return Err(InvalidManifest::Disagreement { inside: shown(inside), outside: shown(outside) });
    }
    let told = outside.or(inside).ok_or(InvalidManifest::Untyped)?;
    let known = [IMAGE_MEDIA_TYPE, INDEX_MEDIA_TYPE, DOCKER_IMAGE_MEDIA_TYPE, DOCKER_LIST_MEDIA_TYPE, ARTIFACT_MEDIA_TYPE];
    known.into_iter().find(|known| *known == told).ok_or_else(|| InvalidManifest::MediaType(shown(told)))
}

fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN_CHARS).collect()
}

/// What a reference asks of the repository.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Need {
    Blob,
    Manifest,
    Nothing,
}

/// Layers that may not be distributed (image-spec 1.1, layer.md, and Docker's schema 2), and any that tells where else it lies.
fn layer_need(layer: &Descriptor) -> Need {
    let is_foreign = layer.media_type == "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        || layer.media_type.starts_with("application/vnd.oci.image.layer.nondistributable.v1.tar");
    if is_foreign || !layer.urls.is_empty() { Need::Nothing } else { Need::Blob }
}

/// An index may list other things than manifests: BuildKit's cache lists layers.
fn child_need(child: &Descriptor) -> Need {
    if child.media_type.is_empty() || is_manifest_media_type(&child.media_type) { Need::Manifest } else { Need::Blob }
}

/// References by what they ask, each once.
#[derive(Default)]
struct References {
    blobs: Vec<Descriptor>,
    manifests: Vec<Descriptor>,
    foreign: Vec<Descriptor>,
    seen: HashSet<(Digest, Need)>,
    sizes: HashMap<Digest, u64>,
    total_bytes: u64,
}

impl References {
    fn add_all(&mut self, descriptors: Option<Vec<Descriptor>>, need: fn(&Descriptor) -> Need) -> Result<(), InvalidManifest> {
        descriptors.unwrap_or_default().into_iter().try_for_each(|descriptor| self.add(need(&descriptor), descriptor))
    }

    fn add(&mut self, need: Need, descriptor: Descriptor) -> Result<(), InvalidManifest> {
        check_size(&descriptor)?;
        let Descriptor { digest, size, .. } = descriptor;
        if self.sizes.insert(digest, size).is_some_and(|other| other != size) {
            return Err(InvalidManifest::TwoSizes(digest));
        }
        if !self.seen.insert((digest, need)) {
            return Ok(());
        }
        self.total_bytes = self.total_bytes.saturating_add(size);
        if self.total_bytes > MAX_SIZE_BYTES {
            return Err(InvalidManifest::Size(digest));
        }
        match need {
            Need::Blob => self.blobs.push(descriptor),
            Need::Manifest => self.manifests.push(descriptor),
            Need::Nothing => self.foreign.push(descriptor),
        }
        Ok(())
    }
}

fn check_size(descriptor: &Descriptor) -> Result<(), InvalidManifest> {
    if descriptor.size > MAX_SIZE_BYTES { Err(InvalidManifest::Size(descriptor.digest)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

    fn descriptor(media_type: &str, text: &str) -> serde_json::Value {
        serde_json::json!({ "mediaType": media_type, "digest": Digest::sha256(text.as_bytes()), "size": text.len() })
    }

    fn image() -> serde_json::Value {
        let layers = [descriptor(LAYER, "one"), descriptor(LAYER, "other")];
        serde_json::json!({ "schemaVersion": 2, "mediaType": IMAGE_MEDIA_TYPE, "config": descriptor(CONFIG, "config"), "layers": layers })
    }

    fn index() -> serde_json::Value {
        let manifests = [descriptor(IMAGE_MEDIA_TYPE, "amd64"), descriptor(INDEX_MEDIA_TYPE, "nested"), descriptor(LAYER, "cache")];
        serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX_MEDIA_TYPE, "manifests": manifests })
    }

    fn with(mut manifest: serde_json::Value, key: &str, value: serde_json::Value) -> serde_json::Value {
        manifest[key] = value;
        manifest
    }

    fn push(manifest: &serde_json::Value, content_type: &str) -> Result<PushedManifest, InvalidManifest> {
        PushedManifest::parse(manifest.to_string().as_bytes(), Some(content_type))
    }

    fn digests(descriptors: &[Descriptor]) -> Vec<Digest> {
        descriptors.iter().map(|descriptor| descriptor.digest).collect()
    }

    fn sha256(texts: &[&str]) -> Vec<Digest> {
        texts.iter().map(|text| Digest::sha256(text.as_bytes())).collect()
    }

    #[test]
    fn an_image_needs_its_config_and_its_own_layers() {
        let mut manifest = image();
        let urls = serde_json::json!(["http://169.254.169.254/"]);
        for foreign in [
            with(descriptor(LAYER, "elsewhere"), "urls", urls),
            descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "windows"),
            descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", "secret"),
            descriptor(LAYER, "one"),
        ] {
            manifest["layers"].as_array_mut().unwrap().push(foreign);
        }
        let pushed = push(&manifest, &format!("{IMAGE_MEDIA_TYPE}; charset=utf-8")).unwrap();
        assert_eq!(digests(&pushed.blobs), sha256(&["config", "one", "other"]));
        assert_eq!(digests(&pushed.foreign), sha256(&["elsewhere", "windows", "secret"]));
        assert_eq!((pushed.manifests.len(), pushed.media_type), (0, IMAGE_MEDIA_TYPE));
        assert_eq!(pushed.size_bytes, manifest.to_string().len() as u64);
        assert_eq!(pushed.references().count(), 6);
    }

    #[test]
    fn an_index_needs_its_manifests_and_what_else_it_lists() {
        for media_type in [INDEX_MEDIA_TYPE, DOCKER_LIST_MEDIA_TYPE] {
            let pushed = push(&with(index(), "mediaType", media_type.into()), media_type).unwrap();
            assert_eq!(digests(&pushed.manifests), sha256(&["amd64", "nested"]));
            assert_eq!(digests(&pushed.blobs), sha256(&["cache"]));
            assert_eq!(pushed.artifact_type, None);
        }
    }

    #[test]
    fn all_known_types_are_taken() {
        let artifact = serde_json::json!({ "mediaType": ARTIFACT_MEDIA_TYPE, "artifactType": "a/b", "blobs": [descriptor("x/y", "blob")] });
        let docker = with(image(), "mediaType", DOCKER_IMAGE_MEDIA_TYPE.into());
        for (manifest, media_type, blobs) in
            [(artifact, ARTIFACT_MEDIA_TYPE, 1), (docker, DOCKER_IMAGE_MEDIA_TYPE, 3), (image(), IMAGE_MEDIA_TYPE, 3)]
        {
            assert_eq!(push(&manifest, media_type).unwrap().blobs.len(), blobs, "{media_type}");
            // Either of the two tells the type.
            assert_eq!(PushedManifest::parse(manifest.to_string().as_bytes(), None).unwrap().media_type, media_type);
            let mut untyped = manifest.clone();
            untyped.as_object_mut().unwrap().remove("mediaType");
            assert_eq!(push(&untyped, media_type).unwrap().media_type, media_type);
            assert_eq!(PushedManifest::parse(untyped.to_string().as_bytes(), None), Err(InvalidManifest::Untyped));
        }
    }

    #[test]
    fn lists_may_be_empty_or_null_and_unknown_fields_anything() {
        for layers in [serde_json::json!([]), serde_json::Value::Null] {
            let manifest = with(with(image(), "layers", layers.clone()), "org.example", serde_json::json!({ "x": [[], { "y": 1.5 }] }));
            assert_eq!(digests(&push(&manifest, IMAGE_MEDIA_TYPE).unwrap().blobs), sha256(&["config"]));
            assert_eq!(push(&with(index(), "manifests", layers), INDEX_MEDIA_TYPE).unwrap().references().count(), 0);
        }
        let with_data = with(image(), "config", with(descriptor(CONFIG, "config"), "data", "Y29uZmln".into()));
        assert!(push(&with_data, IMAGE_MEDIA_TYPE).is_ok());
    }

    #[test]
    fn row_55_two_manifests_in_one_and_a_wrong_type_are_refused() {
        let [some, none] = [serde_json::json!([descriptor(LAYER, "x")]), serde_json::json!([])];
        for (manifest, media_type, field) in [
            (with(image(), "manifests", some.clone()), IMAGE_MEDIA_TYPE, "manifests"),
            (with(image(), "manifests", none.clone()), IMAGE_MEDIA_TYPE, "manifests"),
            (with(image(), "blobs", some.clone()), IMAGE_MEDIA_TYPE, "blobs"),
            (with(image(), "fsLayers", none.clone()), IMAGE_MEDIA_TYPE, "fsLayers"),
            (with(index(), "layers", some.clone()), INDEX_MEDIA_TYPE, "layers"),
            (with(index(), "layers", none), INDEX_MEDIA_TYPE, "layers"),
            (with(index(), "config", descriptor(CONFIG, "config")), INDEX_MEDIA_TYPE, "config"),
            (with(serde_json::json!({ "artifactType": "a/b" }), "layers", some), ARTIFACT_MEDIA_TYPE, "layers"),
        ] {
            assert_eq!(push(&manifest, media_type), Err(InvalidManifest::Misplaced { field }), "{manifest}");
        }
        for (manifest, content_type) in [(image(), INDEX_MEDIA_TYPE), (index(), IMAGE_MEDIA_TYPE), (image(), DOCKER_IMAGE_MEDIA_TYPE)] {
            assert!(matches!(push(&manifest, content_type), Err(InvalidManifest::Disagreement { .. })), "{content_type}");
        }
        for content_type in ["text/html", "application/json", "application/vnd.docker.distribution.manifest.v1+prettyjws", "x"] {
            assert_eq!(push(&image(), content_type), Err(InvalidManifest::MediaType(content_type.to_owned())));
        }
        let unknown = with(image(), "mediaType", "application/vnd.example.manifest+json".into());
        assert!(matches!(PushedManifest::parse(unknown.to_string().as_bytes(), None), Err(InvalidManifest::MediaType(_))));
    }

    #[test]
    fn row_57_impossible_sizes_are_refused() {
        let digest = Digest::sha256(b"config");
        for size in ["-1", "1.0", "1e3", "\"1\"", "18446744073709551616", "null"] {
            let text = image().to_string().replace("\"size\":6", &format!("\"size\":{size}"));
            assert!(matches!(PushedManifest::parse(text.as_bytes(), Some(IMAGE_MEDIA_TYPE)), Err(InvalidManifest::Json(_))), "{size}");
        }
        for size in ["9223372036854775808", "18446744073709551615"] {
            let text = image().to_string().replace("\"size\":6", &format!("\"size\":{size}"));
            assert_eq!(PushedManifest::parse(text.as_bytes(), Some(IMAGE_MEDIA_TYPE)), Err(InvalidManifest::Size(digest)), "{size}");
        }
        let mut too_much = image();
        too_much["layers"][0]["size"] = i64::MAX.into();
        assert_eq!(push(&too_much, IMAGE_MEDIA_TYPE), Err(InvalidManifest::Size(Digest::sha256(b"one"))));
        let mut twice = image();
        twice["layers"][0]["digest"] = twice["config"]["digest"].clone();
        assert_eq!(push(&twice, IMAGE_MEDIA_TYPE), Err(InvalidManifest::TwoSizes(digest)));
        let subject = with(descriptor(IMAGE_MEDIA_TYPE, "subject"), "size", u64::MAX.into());
        assert!(matches!(push(&with(image(), "subject", subject), IMAGE_MEDIA_TYPE), Err(InvalidManifest::Size(_))));
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let mut no_config = image();
        no_config.as_object_mut().unwrap().remove("config");
        assert_eq!(push(&no_config, IMAGE_MEDIA_TYPE), Err(InvalidManifest::NoConfig));
        for version in [serde_json::json!(1), serde_json::json!(3), serde_json::Value::Null] {
            assert_eq!(push(&with(image(), "schemaVersion", version), IMAGE_MEDIA_TYPE), Err(InvalidManifest::SchemaVersion));
        }
        let blake = with(descriptor(CONFIG, "config"), "digest", "blake3:00".into());
        for json in [
            "[]".to_owned(),
            "<html>".to_owned(),
            String::new(),
            format!("{} x", image()),
            image().to_string().replacen('{', r#"{"layers":[],"#, 1),
            image().to_string().replacen('{', r#"{"x":{"y":1,"y":1},"#, 1),
            with(image(), "annotations", serde_json::json!({ "a": 1 })).to_string(),
            with(image(), "config", blake).to_string(),
        ] {
            let refused = PushedManifest::parse(json.as_bytes(), Some(IMAGE_MEDIA_TYPE));
            assert!(matches!(refused, Err(InvalidManifest::Json(_))), "{json}: {refused:?}");
        }
    }

    #[test]
    fn row_52_the_size_is_bounded() {
        let mut json = image().to_string().into_bytes();
        json.resize(MAX_MANIFEST_BYTES, b' ');
        assert!(PushedManifest::parse(&json, Some(IMAGE_MEDIA_TYPE)).is_ok());
        json.push(b' ');
        assert_eq!(PushedManifest::parse(&json, Some(IMAGE_MEDIA_TYPE)), Err(InvalidManifest::TooLarge));
        // One that is full of descriptors has few enough keys.
        let full: Vec<_> = (0..25_000).map(|number| descriptor(LAYER, &number.to_string())).collect();
        let manifest = with(image(), "layers", full.into()).to_string();
        assert!(manifest.len() > MAX_MANIFEST_BYTES * 3 / 4 && manifest.len() <= MAX_MANIFEST_BYTES, "{}", manifest.len());
        assert_eq!(PushedManifest::parse(manifest.as_bytes(), Some(IMAGE_MEDIA_TYPE)).unwrap().blobs.len(), 25_001);
    }

    #[test]
    fn a_referrer_is_listed_with_its_type_and_annotations() {
        let subject = serde_json::json!({
            "mediaType": IMAGE_MEDIA_TYPE, "digest": Digest::of(Algorithm::Sha512, b"subject"), "size": 7
        });
        let annotations: BTreeMap<String, String> = [("k".to_owned(), "v".to_owned())].into();
        for (manifest, media_type, artifact_type) in [
            (image(), IMAGE_MEDIA_TYPE, Some(CONFIG)),
            (with(image(), "artifactType", "".into()), IMAGE_MEDIA_TYPE, Some(CONFIG)),
            (with(image(), "artifactType", "a/b".into()), IMAGE_MEDIA_TYPE, Some("a/b")),
            (index(), INDEX_MEDIA_TYPE, None),
            (with(index(), "artifactType", "".into()), INDEX_MEDIA_TYPE, None),
            (with(index(), "artifactType", "a/b".into()), INDEX_MEDIA_TYPE, Some("a/b")),
        ] {
            let manifest = with(with(manifest, "subject", subject.clone()), "annotations", serde_json::json!(annotations));
            let pushed = push(&manifest, media_type).unwrap();
            assert_eq!(pushed.subject.as_ref().unwrap().digest, Digest::of(Algorithm::Sha512, b"subject"));
            assert!(!pushed.references().any(|reference| Some(reference) == pushed.subject.as_ref()));
            let digest = Digest::of(Algorithm::Sha512, manifest.to_string().as_bytes());
            let listed = pushed.descriptor(digest);
            assert_eq!((listed.digest, listed.size), (digest, manifest.to_string().len() as u64));
            assert_eq!((listed.artifact_type.as_deref(), listed.media_type.as_str()), (artifact_type, media_type));
            assert_eq!(listed.annotations.as_ref(), Some(&annotations));
        }
    }
}
