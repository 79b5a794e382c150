//! What a region's ledger says. Every kind is in the format from the first day, also those that a later release uses first; a kind
//! that this program does not know is kept as it was written, and ignored, if the segment's least reader allows it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::identity::{Origin, Place};
use crate::clock::Timestamp;
use crate::oci::{Digest, RepositoryName, Tag};

/// Content up to this size travels in the ledger; larger content has a key of its own.
pub const INLINE_BYTES: usize = 32 * 1024;

/// One event. Each is written as one JSON object with one key, its kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Content is in the region's bucket, or here.
    Blob {
        digest: Digest,
        size_bytes: u64,
        content: Content,
    },
    /// A blob may be read through this repository.
    Link {
        repository: RepositoryName,
        digest: Digest,
    },
    Manifest(Box<ManifestEvent>),
    Tag {
        repository: RepositoryName,
        tag: Tag,
        digest: Digest,
        /// When the name that this moves was made; append fills it in, so that every region tells the same.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        created: Option<Timestamp>,
    },
    Untag {
        repository: RepositoryName,
        tag: Tag,
    },
    Delete {
        repository: RepositoryName,
        digest: Digest,
        kind: ContentKind,
    },
    /// Refuses what is done to a tag, to a manifest, or to a whole repository, until another one says otherwise. Who locks a tag says
    /// the tag and its manifest again in the same segment, so that nobody who has not seen the lock takes them away.
    Lock {
        repository: RepositoryName,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tag: Option<Tag>,
        /// With a tag: what it was. Without one, and with attributes: the manifest that is locked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<Digest>,
        /// Whether it forbids to change or delete: all that there was to a lock before it had attributes.
        locked: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attributes: Option<Attributes>,
    },
    /// A region has a copy of its own.
    Copy {
        digest: Digest,
        size_bytes: u64,
        place: Place,
    },
    Condemn {
        places: Vec<Place>,
    },
    Dead {
        places: Vec<Place>,
    },
    /// Uploaded, but no event names it: nothing may name it from here on, and it will be deleted.
    Abandon {
        places: Vec<Place>,
    },
    Member {
        origin: Origin,
        standing: Standing,
    },
    /// Survivors agree that a region ends here.
    Lost {
        origin: Origin,
        cut: u64,
    },
    Heartbeat {},
    Identity(ControlRecord),
    Role(ControlRecord),
    Rule(ControlRecord),
    PublicKey(ControlRecord),
    /// An upstream has a manifest as it stands here, and under this tag where one is named.
    Forwarded {
        repository: RepositoryName,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tag: Option<Tag>,
        digest: Digest,
        upstream: String,
    },
    /// A newer writer's: the whole line.
    #[serde(skip)]
    Unknown(String),
}

/// Every kind that this program can read.
const KINDS: &[&str] = &[
    "blob",
    "link",
    "manifest",
    "tag",
    "untag",
    "delete",
    "lock",
    "copy",
    "condemn",
    "dead",
    "abandon",
    "member",
    "lost",
    "heartbeat",
    "identity",
    "role",
    "rule",
    "public_key",
    "forwarded",
];

/// The bytes of a content, or where they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    Inline(#[serde(with = "base64_text")] Bytes),
    Key(Place),
}

/// What a digest names in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContentKind {
    Manifest,
    Blob,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManifestEvent {
    pub repository: RepositoryName,
    pub digest: Digest,
    pub content: Content,
    /// As `Event::Tag` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    #[serde(flatten)]
    pub facts: ManifestFacts,
}

/// What a manifest says of itself, so that nobody has to read it again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ManifestFacts {
    pub media_type: String,
    pub size_bytes: u64,
    /// Configs and layers, without the foreign ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<Digest>,
    /// The manifests of an index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<Digest>,
    /// References may be absent: the registry allows sparse indexes here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sparse: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// For lists of referrers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Annotations are too long to travel here: who needs them reads the manifest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abridged: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    Joined,
    Leaving,
    Removed,
}

/// What may be done to something: all of it, unless a lock says otherwise. The names are Azure Container Registry's
/// (`changeableAttributes`: `readEnabled`, `writeEnabled`, `deleteEnabled`, `listEnabled`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attributes {
    #[serde(skip_serializing_if = "is_true")]
    pub read: bool,
    #[serde(skip_serializing_if = "is_true")]
    pub write: bool,
    #[serde(skip_serializing_if = "is_true")]
    pub delete: bool,
    #[serde(skip_serializing_if = "is_true")]
    pub list: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_true(value: &bool) -> bool {
    *value
}

impl Default for Attributes {
    fn default() -> Attributes {
        Attributes { read: true, write: true, delete: true, list: true }
    }
}

impl Attributes {
    /// Of what is neither changed nor deleted.
    pub const LOCKED: Attributes = Attributes { read: true, write: false, delete: false, list: true };

    /// Either write or delete disabled prevents deletion.
    pub fn may_delete(self) -> bool {
        self.write && self.delete
    }

    /// What is left where this and another lock hold.
    #[must_use]
    pub fn and(self, other: Attributes) -> Attributes {
        Attributes {
            read: self.read && other.read,
            write: self.write && other.write,
            delete: self.delete && other.delete,
            list: self.list && other.list,
        }
    }
}

/// What a lock can be on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockable<'a> {
    Repository,
    Tag(&'a Tag),
    Manifest(&'a Digest),
}

impl<'a> Lockable<'a> {
    /// As an event names it.
    pub fn named(tag: Option<&'a Tag>, digest: Option<&'a Digest>, attributes: Option<Attributes>) -> Lockable<'a> {
        match (tag, digest, attributes) {
            (Some(tag), _, _) => Lockable::Tag(tag),
            (None, Some(digest), Some(_)) => Lockable::Manifest(digest),
            (None, _, _) => Lockable::Repository,
        }
    }
}

/// What a record of the control plane is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlKind {
    Identity = 1,
    Role = 2,
    Rule = 3,
    PublicKey = 4,
}

/// The control plane's: its rooms give the content its meaning; without content it is removed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ControlRecord {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<serde_json::Value>,
}

impl Event {
    pub fn blob(digest: Digest, size_bytes: u64, content: Content) -> Event {
        Event::Blob { digest, size_bytes, content }
    }

    pub fn link(repository: RepositoryName, digest: Digest) -> Event {
        Event::Link { repository, digest }
    }

    pub fn manifest(repository: RepositoryName, digest: Digest, content: Content, facts: ManifestFacts) -> Event {
        Event::Manifest(Box::new(ManifestEvent { repository, digest, content, created: None, facts }))
    }

    pub fn tag(repository: RepositoryName, tag: Tag, digest: Digest) -> Event {
        Event::Tag { repository, tag, digest, created: None }
    }

    pub fn untag(repository: RepositoryName, tag: Tag) -> Event {
        Event::Untag { repository, tag }
    }

    pub fn delete(repository: RepositoryName, digest: Digest, kind: ContentKind) -> Event {
        Event::Delete { repository, digest, kind }
    }

    pub fn lock_repository(repository: RepositoryName, attributes: Attributes) -> Event {
        Event::Lock { repository, tag: None, digest: None, locked: !attributes.may_delete(), attributes: Some(attributes) }
    }

    /// `digest` is what the tag is.
    pub fn lock_tag(repository: RepositoryName, tag: Tag, digest: Digest, attributes: Attributes) -> Event {
        Event::Lock { repository, tag: Some(tag), digest: Some(digest), locked: !attributes.may_delete(), attributes: Some(attributes) }
    }

    pub fn lock_manifest(repository: RepositoryName, digest: Digest, attributes: Attributes) -> Event {
        Event::Lock { repository, tag: None, digest: Some(digest), locked: !attributes.may_delete(), attributes: Some(attributes) }
    }

    pub fn forwarded(repository: RepositoryName, tag: Option<Tag>, digest: Digest, upstream: &str) -> Event {
        Event::Forwarded { repository, tag, digest, upstream: upstream.to_owned() }
    }

    /// The event as one line of JSON, without its end.
    pub fn to_line(&self) -> Result<String, serde_json::Error> {
        match self {
            Event::Unknown(line) => Ok(line.clone()),
            known => serde_json::to_string(known),
        }
    }

    /// A known kind that cannot be read is an error; an unknown kind is not.
    pub fn from_line(line: &str) -> Result<Event, serde_json::Error> {
        let error = match serde_json::from_str(line) {
            Ok(event) => return Ok(event),
            Err(error) => error,
        };
        let object: BTreeMap<String, serde::de::IgnoredAny> = serde_json::from_str(line)?;
        match object.keys().next() {
            Some(kind) if object.len() == 1 && !KINDS.contains(&kind.as_str()) => Ok(Event::Unknown(line.to_owned())),
            _ => Err(error),
        }
    }
}

mod base64_text {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map(Bytes::from).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use ulid::Ulid;

    use super::*;

    fn one_of_each() -> Vec<Event> {
        let repository: RepositoryName = "app/web".parse().unwrap();
        let tag: Tag = "v1".parse().unwrap();
        let digest = Digest::sha256(b"x");
        let origin = Origin::new("eu", "01");
        let place = Place { origin: origin.clone(), key: Ulid::from_parts(1, 2) };
        let record = ControlRecord { name: "ci".into(), content: Some(json!({"patterns": ["app/*"]})) };
        let facts = ManifestFacts {
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            size_bytes: 3,
            blobs: vec![digest],
            manifests: vec![digest],
            sparse: true,
            subject: Some(digest),
            artifact_type: Some("a/b".into()),
            annotations: Some(BTreeMap::from([("k".into(), "v".into())])),
            abridged: true,
        };
        vec![
            Event::blob(digest, 3, Content::Key(place.clone())),
            Event::link(repository.clone(), digest),
            Event::manifest(repository.clone(), digest, Content::Inline(Bytes::from_static(b"{}\n")), facts),
            Event::Tag { repository: repository.clone(), tag: tag.clone(), digest, created: Some(Timestamp::from_ms(7)) },
            Event::untag(repository.clone(), tag.clone()),
            Event::delete(repository.clone(), digest, ContentKind::Blob),
            Event::lock_tag(repository.clone(), tag.clone(), digest, Attributes { list: false, ..Attributes::LOCKED }),
            Event::Copy { digest, size_bytes: 3, place: place.clone() },
            Event::Condemn { places: vec![place.clone()] },
            Event::Dead { places: vec![place.clone()] },
            Event::Abandon { places: vec![place] },
            Event::Member { origin: origin.clone(), standing: Standing::Joined },
            Event::Lost { origin, cut: 9 },
            Event::Heartbeat {},
            Event::Identity(record.clone()),
            Event::Role(record.clone()),
            Event::Rule(record.clone()),
            Event::PublicKey(ControlRecord { content: None, ..record }),
            Event::forwarded(repository, Some(tag), digest, "origin.example"),
        ]
    }

    #[test]
    fn each_kind_reads_back_as_written() {
        let mut kinds = Vec::new();
        for event in one_of_each() {
            let line = event.to_line().unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(Event::from_line(&line).unwrap(), event);
            kinds.push(line.split('"').nth(1).unwrap().to_owned());
        }
        assert_eq!(kinds, KINDS);
    }

    #[test]
    fn a_lock_of_before_there_were_attributes_is_one_of_a_tag_or_a_repository() {
        let line = r#"{"lock":{"repository":"a","tag":"b","locked":true}}"#;
        let Event::Lock { tag, digest, locked: true, attributes: None, .. } = Event::from_line(line).unwrap() else { panic!("{line}") };
        assert_eq!(Lockable::named(tag.as_ref(), digest.as_ref(), None), Lockable::Tag(&"b".parse().unwrap()));
        let (repository, digest): (RepositoryName, _) = ("a".parse().unwrap(), Digest::sha256(b"x"));
        assert_eq!(Lockable::named(None, Some(&digest), None), Lockable::Repository);
        let Event::Lock { tag, digest: named, attributes, .. } = Event::lock_manifest(repository, digest, Attributes::LOCKED) else {
            panic!("a lock")
        };
        assert_eq!(Lockable::named(tag.as_ref(), named.as_ref(), attributes), Lockable::Manifest(&digest));
        assert_eq!(serde_json::to_string(&attributes).unwrap(), r#"{"write":false,"delete":false}"#);
    }

    #[test]
    fn an_unknown_kind_is_kept_and_a_known_one_that_is_wrong_is_refused() {
        let newer = r#"{"seal":{"by":"x","parts":[1,2]}}"#;
        let event = Event::from_line(newer).unwrap();
        assert_eq!(event, Event::Unknown(newer.to_owned()));
        assert_eq!(event.to_line().unwrap(), newer);
        // A newer writer's field of a known kind is passed over.
        let line = r#"{"untag":{"repository":"a","tag":"b","why":"c"}}"#;
        assert_eq!(Event::from_line(line).unwrap(), Event::untag("a".parse().unwrap(), "b".parse().unwrap()));
        for bad in ["", "1", "{}", "[]", "{\"tag\":{}}", r#"{"untag":{"repository":"A","tag":"b"}}"#, r#"{"x":1,"y":2}"#, "{\"x\":"] {
            assert!(Event::from_line(bad).is_err(), "{bad}");
        }
    }
}
