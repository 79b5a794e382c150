//! The index's tables as the fold sees them: ordered rows of bytes, and changes that lie over them until they are committed
//! together. The fold is pure over this: it reads a snapshot and makes a set of changes.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::IndexError;

/// The tables; [`super::key`] says how their keys are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// What the index stands for: format, origin.
    Identity,
    /// Origin: where its ledger was folded to.
    Ledgers,
    /// Nothing: where the imports were folded to.
    Imports,
    /// Origin: what the writer of its last segment had seen.
    Seen,
    /// Origin: whether it is a member.
    Members,
    /// Origin: the last of its segments that counts, where survivors declared it lost.
    Cuts,
    /// Repository, tag: the live claims.
    Tags,
    /// Repository, digest, tag: for each live claim.
    TagsOf,
    /// Repository, tag, where more than one claim is live, or a lock overrides one.
    Conflicts,
    /// Repository, tag or nothing for all of them: the live claims of locks.
    Locks,
    /// Kind, name: the live claims of a record of the control plane.
    Control,
    /// Repository, digest: the live claims with what the manifest says of itself.
    Manifests,
    /// Repository, digest: the greatest claim that there ever was, for those who still name a manifest that was deleted elsewhere.
    Known,
    /// Repository, subject, digest.
    Referrers,
    /// Repository, referenced digest, manifest that needs it.
    Needs,
    /// Repository, digest: live claims.
    Links,
    /// Digest, repository.
    Linked,
    /// Digest: size and places of a content.
    Contents,
    /// Digest: its bytes, when they came inline.
    Inline,
    /// Digest, repository: content of that repository which this region does not hold itself.
    Wanted,
    /// Key, origin: what became of a place.
    Places,
    /// Repository: times and counts.
    Repositories,
    /// Repository, tag or digest, upstream: what that upstream has.
    Forwards,
    /// Name, origin: the last segment, not folded yet, whose events on this name are superseded.
    Ahead,
    /// Origin, segment, name: the same, to be dropped when it was folded.
    AheadUntil,
}

impl Table {
    pub const ALL: [Table; 25] = [
        Table::Identity,
        Table::Ledgers,
        Table::Imports,
        Table::Seen,
        Table::Members,
        Table::Cuts,
        Table::Tags,
        Table::TagsOf,
        Table::Conflicts,
        Table::Locks,
        Table::Control,
        Table::Manifests,
        Table::Known,
        Table::Referrers,
        Table::Needs,
        Table::Links,
        Table::Linked,
        Table::Contents,
        Table::Inline,
        Table::Wanted,
        Table::Places,
        Table::Repositories,
        Table::Forwards,
        Table::Ahead,
        Table::AheadUntil,
    ];

    /// Its name in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Table::Identity => "identity",
            Table::Ledgers => "ledgers",
            Table::Imports => "imports",
            Table::Seen => "seen",
            Table::Members => "members",
            Table::Cuts => "cuts",
            Table::Tags => "tags",
            Table::TagsOf => "tags_of",
            Table::Conflicts => "conflicts",
            Table::Locks => "locks",
            Table::Control => "control",
            Table::Manifests => "manifests",
            Table::Known => "known",
            Table::Referrers => "referrers",
            Table::Needs => "needs",
            Table::Links => "links",
            Table::Linked => "linked",
            Table::Contents => "contents",
            Table::Inline => "inline",
            Table::Wanted => "wanted",
            Table::Places => "places",
            Table::Repositories => "repositories",
            Table::Forwards => "forwards",
            Table::Ahead => "ahead",
            Table::AheadUntil => "ahead_until",
        }
    }
}

/// Whether a scan goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    On,
    Stop,
}

/// Called with each row of a scan.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<Walk, IndexError> + 'a;

/// A consistent state of all tables.
pub trait Rows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError>;

    /// Visits in order the rows whose keys begin with `prefix`, those behind `after` only.
    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, visit: &mut Visit<'_>) -> Result<(), IndexError>;

    /// The keys that begin with `prefix`, with what follows it.
    fn suffixes(&self, table: Table, prefix: &[u8]) -> Result<Vec<Vec<u8>>, IndexError> {
        let mut found = Vec::new();
        self.scan(table, prefix, None, &mut |key, _| {
            found.push(key.get(prefix.len()..).unwrap_or_default().to_vec());
            Ok(Walk::On)
        })?;
        Ok(found)
    }
}

/// The first key of a scan.
pub(super) fn first<'a>(prefix: &'a [u8], after: Option<&'a [u8]>) -> Bound<&'a [u8]> {
    match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    }
}

/// A row's new value, or that it goes.
pub type Change = Option<Vec<u8>>;

/// Rows that change, by table.
#[derive(Debug)]
pub struct Changes([BTreeMap<Vec<u8>, Change>; Table::ALL.len()]);

impl Default for Changes {
    fn default() -> Changes {
        Changes(std::array::from_fn(|_| BTreeMap::new()))
    }
}

impl Changes {
    fn of(&self, table: Table) -> &BTreeMap<Vec<u8>, Change> {
        &self.0[table as usize]
    }

    /// Takes one table's changes out.
    #[cfg(test)]
    pub fn split(mut self, table: Table) -> (Changes, Changes) {
        let mut out = Changes::default();
        out.0[table as usize] = std::mem::take(&mut self.0[table as usize]);
        (out, self)
    }

    pub fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.0[table as usize].insert(key, Some(value));
    }

    pub fn len(&self) -> usize {
        self.0.iter().map(BTreeMap::len).sum()
    }

    pub fn tables(self) -> impl Iterator<Item = (Table, BTreeMap<Vec<u8>, Change>)> {
        Table::ALL.into_iter().zip(self.0)
    }
}

/// Changes over a state, read as if they were made.
pub struct Overlay<'a> {
    base: &'a dyn Rows,
    changes: Changes,
}

impl<'a> Overlay<'a> {
    pub fn new(base: &'a dyn Rows) -> Overlay<'a> {
        Overlay { base, changes: Changes::default() }
    }

    pub fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.changes.put(table, key, value);
    }

    pub fn remove(&mut self, table: Table, key: Vec<u8>) {
        self.changes.0[table as usize].insert(key, None);
    }

    pub fn into_changes(self) -> Changes {
        self.changes
    }

    /// Takes over what was changed over this.
    pub fn absorb(&mut self, changes: Changes) {
        for (mine, theirs) in self.changes.0.iter_mut().zip(changes.0) {
            mine.extend(theirs);
        }
    }
}

impl Rows for Overlay<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        match self.changes.of(table).get(key) {
            Some(change) => Ok(change.clone()),
            None => self.base.get(table, key),
        }
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, visit: &mut Visit<'_>) -> Result<(), IndexError> {
        let bounds = (first(prefix, after), Bound::Unbounded);
        let mut changes = self.changes.of(table).range::<[u8], _>(bounds).take_while(|(key, _)| key.starts_with(prefix)).peekable();
        let mut walk = Walk::On;
        self.base.scan(table, prefix, after, &mut |key, value| {
            while let Some((changed, change)) = changes.next_if(|(changed, _)| changed.as_slice() < key) {
                if let Some(value) = change
                    && visit(changed, value)? == Walk::Stop
                {
                    walk = Walk::Stop;
                    return Ok(Walk::Stop);
                }
            }
            walk = match changes.next_if(|(changed, _)| changed.as_slice() == key) {
                Some((_, None)) => Walk::On,
                Some((_, Some(value))) => visit(key, value)?,
                None => visit(key, value)?,
            };
            Ok(walk)
        })?;
        if walk == Walk::Stop {
            return Ok(());
        }
        for (key, change) in changes {
            if let Some(value) = change
                && visit(key, value)? == Walk::Stop
            {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::super::memory::Memory;
    use super::*;

    proptest! {
        /// An overlay reads like the rows with the changes made.
        #[test]
        fn an_overlay_reads_like_what_is_committed(
            base in proptest::collection::btree_map(proptest::collection::vec(0..3_u8, 0..4), any::<u8>(), 0..12),
            changes in proptest::collection::btree_map(proptest::collection::vec(0..3_u8, 0..4), any::<Option<u8>>(), 0..12),
            prefix in proptest::collection::vec(0..3_u8, 0..3),
            after in proptest::option::of(proptest::collection::vec(0..3_u8, 0..4)),
            limit in 1..5_usize,
        ) {
            let memory = Memory::default();
            let mut before = Changes::default();
            before.0[Table::Tags as usize] = base.into_iter().map(|(key, value)| (key, Some(vec![value]))).collect();
            memory.commit(before);
            let snapshot = memory.snapshot();
            let mut overlay = Overlay::new(&snapshot);
            for (key, value) in changes {
                match value {
                    Some(value) => overlay.put(Table::Tags, key, vec![value]),
                    None => overlay.remove(Table::Tags, key),
                }
            }
            let read = |rows: &dyn Rows| {
                let mut found = Vec::new();
                rows.scan(Table::Tags, &prefix, after.as_deref(), &mut |key, value| {
                    found.push((key.to_vec(), value.to_vec()));
                    Ok(if found.len() == limit { Walk::Stop } else { Walk::On })
                }).unwrap();
                (found, rows.get(Table::Tags, &prefix).unwrap())
            };
            let over = read(&overlay);
            memory.commit(overlay.into_changes());
            prop_assert_eq!(over, read(&memory.snapshot()));
        }
    }
}
