//! How values are written: a version byte, then fields one after the other. Numbers have seven bits in a byte, least first; texts
//! and bytes have their length before them.

use bytes::Bytes;

use super::super::event::{Attributes, ManifestFacts, Standing};
use super::super::identity::{HybridTime, Origin, Place, VersionVector};
use super::super::state::{
    Claim, Claims, ContentRow, ControlClaim, ForwardRow, ImportsRow, LedgerRow, LockClaim, ManifestClaim, MemberRow, PlaceRow,
    RepositoryRow, TagClaim,
};
use super::{IndexError, key};
use crate::clock::Timestamp;
use crate::oci::Digest;

/// The version of all values.
const VERSION: u8 = 1;

/// What a row can hold.
pub trait Value: Sized {
    fn write(&self, to: &mut Writer);
    fn read(from: &mut Reader<'_>) -> Option<Self>;

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer(vec![VERSION]);
        self.write(&mut writer);
        writer.0
    }

    fn decode(bytes: &[u8]) -> Result<Self, IndexError> {
        let fault = || IndexError::Damaged("a row is not what the index wrote".into());
        let (&VERSION, rest) = bytes.split_first().ok_or_else(fault)? else { return Err(fault()) };
        let mut reader = Reader(rest);
        let value = Self::read(&mut reader).ok_or_else(fault)?;
        if reader.0.is_empty() { Ok(value) } else { Err(fault()) }
    }
}

pub struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn digest(&mut self, digest: &Digest) {
        self.0.extend(key::digest(digest));
    }

    fn time(&mut self, time: HybridTime) {
        self.number(time.ms);
        self.number(time.count.into());
    }

    fn all<T: Value>(&mut self, values: &[T]) {
        self.number(values.len() as u64);
        for value in values {
            value.write(self);
        }
    }
}

pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn digest(&mut self) -> Option<Digest> {
        let (digest, rest) = key::split_digest(self.0)?;
        self.0 = rest;
        Some(digest)
    }

    fn time(&mut self) -> Option<HybridTime> {
        Some(HybridTime { ms: self.number()?, count: self.small()? })
    }

    fn all<T: Value>(&mut self) -> Option<Vec<T>> {
        (0..self.number()?).map(|_| T::read(self)).collect()
    }
}

impl Value for () {
    fn write(&self, _: &mut Writer) {}

    fn read(_: &mut Reader<'_>) -> Option<()> {
        Some(())
    }
}

/// A bare number.
impl Value for u64 {
    fn write(&self, to: &mut Writer) {
        to.number(*self);
    }

    fn read(from: &mut Reader<'_>) -> Option<u64> {
        from.number()
    }
}

impl Value for Bytes {
    fn write(&self, to: &mut Writer) {
        to.bytes(self);
    }

    fn read(from: &mut Reader<'_>) -> Option<Bytes> {
        from.bytes().map(Bytes::copy_from_slice)
    }
}

impl Value for Origin {
    fn write(&self, to: &mut Writer) {
        to.bytes(self.region.as_bytes());
        to.bytes(self.incarnation.as_bytes());
    }

    fn read(from: &mut Reader<'_>) -> Option<Origin> {
        Some(Origin::new(from.text()?, from.text()?))
    }
}

impl Value for Place {
    fn write(&self, to: &mut Writer) {
        self.origin.write(to);
        to.0.extend_from_slice(&self.key.to_bytes());
    }

    fn read(from: &mut Reader<'_>) -> Option<Place> {
        let origin = Origin::read(from)?;
        let (key, rest) = from.0.split_first_chunk()?;
        from.0 = rest;
        Some(Place { origin, key: ulid::Ulid::from_bytes(*key) })
    }
}

impl Value for TagClaim {
    fn write(&self, to: &mut Writer) {
        to.digest(&self.digest);
        to.number(self.created.as_ms());
    }

    fn read(from: &mut Reader<'_>) -> Option<TagClaim> {
        Some(TagClaim { digest: from.digest()?, created: Timestamp::from_ms(from.number()?) })
    }
}

impl Value for ManifestClaim {
    fn write(&self, to: &mut Writer) {
        to.number(self.created.as_ms());
        // Rarely read in full and open to more fields: as the event has it.
        to.bytes(&serde_json::to_vec(&self.facts).unwrap_or_default());
    }

    fn read(from: &mut Reader<'_>) -> Option<ManifestClaim> {
        let created = Timestamp::from_ms(from.number()?);
        let facts: ManifestFacts = serde_json::from_slice(from.bytes()?).ok()?;
        Some(ManifestClaim { created, facts })
    }
}

impl<T: Value> Value for Claim<T> {
    fn write(&self, to: &mut Writer) {
        to.time(self.clock);
        self.origin.write(to);
        to.number(self.seq);
        to.number(self.index.into());
        self.value.write(to);
    }

    fn read(from: &mut Reader<'_>) -> Option<Claim<T>> {
        Some(Claim { clock: from.time()?, origin: Origin::read(from)?, seq: from.number()?, index: from.small()?, value: T::read(from)? })
    }
}

impl<T: Value> Value for Claims<T> {
    fn write(&self, to: &mut Writer) {
        to.all(self.as_slice());
    }

    fn read(from: &mut Reader<'_>) -> Option<Claims<T>> {
        from.all().map(Claims::from_sorted)
    }
}

impl Value for ContentRow {
    fn write(&self, to: &mut Writer) {
        to.number(self.size_bytes);
        to.number(self.inline.into());
        to.number(self.since.as_ms());
        to.all(&self.places);
    }

    fn read(from: &mut Reader<'_>) -> Option<ContentRow> {
        let (size_bytes, inline) = (from.number()?, from.number()? == 1);
        Some(ContentRow { size_bytes, inline, since: Timestamp::from_ms(from.number()?), places: from.all()? })
    }
}

impl Value for PlaceRow {
    fn write(&self, to: &mut Writer) {
        to.number(self.gone.into());
        to.number(self.named_by.is_some().into());
        if let Some(digest) = &self.named_by {
            to.digest(digest);
        }
        to.number(self.since.as_ms());
    }

    fn read(from: &mut Reader<'_>) -> Option<PlaceRow> {
        let gone = from.number()? == 1;
        let named_by = if from.number()? == 1 { Some(from.digest()?) } else { None };
        Some(PlaceRow { gone, named_by, since: Timestamp::from_ms(from.number()?) })
    }
}

impl Value for RepositoryRow {
    fn write(&self, to: &mut Writer) {
        for number in [self.created.as_ms(), self.updated.as_ms(), self.tags, self.manifests, self.links] {
            to.number(number);
        }
    }

    fn read(from: &mut Reader<'_>) -> Option<RepositoryRow> {
        Some(RepositoryRow {
            created: Timestamp::from_ms(from.number()?),
            updated: Timestamp::from_ms(from.number()?),
            tags: from.number()?,
            manifests: from.number()?,
            links: from.number()?,
        })
    }
}

impl Value for ForwardRow {
    fn write(&self, to: &mut Writer) {
        to.time(self.clock);
        to.digest(&self.digest);
    }

    fn read(from: &mut Reader<'_>) -> Option<ForwardRow> {
        Some(ForwardRow { clock: from.time()?, digest: from.digest()? })
    }
}

/// The bits of what is disabled.
impl Value for Attributes {
    fn write(&self, to: &mut Writer) {
        let disabled = [self.read, self.write, self.delete, self.list].into_iter().zip(0..).filter(|(enabled, _)| !enabled);
        to.number(disabled.map(|(_, bit)| 1 << bit).sum());
    }

    fn read(from: &mut Reader<'_>) -> Option<Attributes> {
        let disabled = from.number()?;
        let enabled = |bit: u32| disabled & (1 << bit) == 0;
        Some(Attributes { read: enabled(0), write: enabled(1), delete: enabled(2), list: enabled(3) })
    }
}

impl Value for LockClaim {
    fn write(&self, to: &mut Writer) {
        Value::write(&self.attributes, to);
        to.number(self.digest.is_some().into());
        if let Some(digest) = &self.digest {
            to.digest(digest);
        }
    }

    fn read(from: &mut Reader<'_>) -> Option<LockClaim> {
        let attributes = Attributes::read(from)?;
        let digest = if from.number()? == 1 { Some(from.digest()?) } else { None };
        Some(LockClaim { attributes, digest })
    }
}

impl Value for ControlClaim {
    fn write(&self, to: &mut Writer) {
        to.number(self.content.is_some().into());
        if let Some(content) = &self.content {
            to.bytes(content);
        }
    }

    fn read(from: &mut Reader<'_>) -> Option<ControlClaim> {
        let content = if from.number()? == 1 { Some(from.bytes()?.to_vec()) } else { None };
        Some(ControlClaim { content })
    }
}

impl Value for MemberRow {
    fn write(&self, to: &mut Writer) {
        to.time(self.clock);
        to.number(match self.standing {
            Standing::Joined => 0,
            Standing::Leaving => 1,
            Standing::Removed => 2,
        });
    }

    fn read(from: &mut Reader<'_>) -> Option<MemberRow> {
        let clock = from.time()?;
        let standing = match from.number()? {
            0 => Standing::Joined,
            1 => Standing::Leaving,
            2 => Standing::Removed,
            _ => return None,
        };
        Some(MemberRow { clock, standing })
    }
}

impl Value for VersionVector {
    fn write(&self, to: &mut Writer) {
        to.number(self.iter().count() as u64);
        for (origin, seq) in self.iter() {
            origin.write(to);
            to.number(seq);
        }
    }

    fn read(from: &mut Reader<'_>) -> Option<VersionVector> {
        let mut vector = VersionVector::default();
        for _ in 0..from.number()? {
            vector.raise(Origin::read(from)?, from.number()?);
        }
        Some(vector)
    }
}

impl Value for ImportsRow {
    fn write(&self, to: &mut Writer) {
        to.number(self.number);
        to.digest(&self.hash);
        to.bytes(self.node.as_bytes());
    }

    fn read(from: &mut Reader<'_>) -> Option<ImportsRow> {
        Some(ImportsRow { number: from.number()?, hash: from.digest()?, node: from.text()?.to_owned() })
    }
}

impl Value for LedgerRow {
    fn write(&self, to: &mut Writer) {
        to.number(self.seq);
        to.digest(&self.hash);
        to.time(self.clock);
        to.number(self.imports);
    }

    fn read(from: &mut Reader<'_>) -> Option<LedgerRow> {
        Some(LedgerRow { seq: from.number()?, hash: from.digest()?, clock: from.time()?, imports: from.number()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn values_read_back_as_written(ms: u64, count: u32, seq: u64, index: u32, sizes: (u64, bool), text in ".{0,8}") {
            let origin = Origin::new("eu", "01");
            let place = Place { origin: origin.clone(), key: ulid::Ulid::from_parts(ms >> 16, seq.into()) };
            let digest = Digest::of(crate::oci::Algorithm::Sha512, text.as_bytes());
            let created = Timestamp::from_ms(ms);
            let clock = HybridTime { ms, count };
            let facts = ManifestFacts { artifact_type: Some(text), size_bytes: seq, ..ManifestFacts::default() };
            let manifest = Claim { clock, origin: origin.clone(), seq, index, value: ManifestClaim { created, facts } };
            prop_assert_eq!(Claim::decode(&manifest.encode()).unwrap(), manifest);
            let tag = Claim { clock, origin, seq, index, value: TagClaim { digest, created } };
            let tags = Claims::from_sorted(vec![tag.clone(), tag]);
            prop_assert_eq!(Claims::decode(&tags.encode()).unwrap(), tags);
            let content = ContentRow { size_bytes: sizes.0, inline: sizes.1, since: created, places: vec![place] };
            prop_assert_eq!(ContentRow::decode(&content.encode()).unwrap(), content);
            let place = PlaceRow { gone: sizes.1, named_by: Some(digest), since: created };
            prop_assert_eq!(PlaceRow::decode(&place.encode()).unwrap(), place);
            let forward = ForwardRow { clock, digest };
            prop_assert_eq!(ForwardRow::decode(&forward.encode()).unwrap(), forward);
            let ledger = LedgerRow { seq, hash: digest, clock, imports: ms };
            prop_assert_eq!(LedgerRow::decode(&ledger.encode()).unwrap(), ledger);
            let attributes = Attributes { read: seq & 1 > 0, write: seq & 2 > 0, delete: ms & 1 > 0, list: ms & 2 > 0 };
            let lock = LockClaim { attributes, digest: sizes.1.then_some(digest) };
            prop_assert_eq!(LockClaim::decode(&lock.encode()).unwrap(), lock);
            for content in [None, Some(b"{}".to_vec())] {
                let control = ControlClaim { content };
                prop_assert_eq!(ControlClaim::decode(&control.encode()).unwrap(), control);
            }
            for standing in [Standing::Joined, Standing::Leaving, Standing::Removed] {
                let member = MemberRow { clock, standing };
                prop_assert_eq!(MemberRow::decode(&member.encode()).unwrap(), member);
            }
            let imports = ImportsRow { number: seq, hash: digest, node: "edge".to_owned() };
            prop_assert_eq!(ImportsRow::decode(&imports.encode()).unwrap(), imports);
            let mut seen = VersionVector::default();
            seen.raise(Origin::new("eu", "01"), seq);
            prop_assert_eq!(VersionVector::decode(&seen.encode()).unwrap(), seen);
            let repository = RepositoryRow { created, updated: created, tags: seq, manifests: ms, links: sizes.0 };
            prop_assert_eq!(RepositoryRow::decode(&repository.encode()).unwrap(), repository);
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut bytes: Vec<u8>) {
            if let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            prop_assert!(Claims::<TagClaim>::decode(&bytes).is_ok() || Claims::<TagClaim>::decode(&bytes).is_err());
            prop_assert!(LedgerRow::decode(&bytes).is_ok() || LedgerRow::decode(&bytes).is_err());
        }
    }
}
