//! Mistakes that tests plant, to see that the simulation catches them. Outside of tests none is ever there, and the compiler sees it.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// A node takes for its own what a node of the same name wrote, whatever the nonce.
    NonceNotChecked,
    /// What stands at the key cannot be read: taken for committed.
    UnreadableTakenForCommitted,
    /// "Exists" is taken for our own success.
    ExistsTakenForOurs,
    /// An error is taken for a definite failure: the next attempt goes to the same number with other bytes.
    ErrorTakenForFailure,
    /// After an answer that is not definite, other bytes are tried at the same number.
    NumberReusedWithOtherBytes,
    /// After a lost race the events are tried again without being checked against what won.
    NotValidatedAgain,
    /// The wall clock, whatever was folded.
    ClockNotRaised,
    /// Neither the chain of hashes nor the bucket is compared with what was folded.
    ChainNotChecked,
    /// One caller's rejection rejects the batch.
    RejectionLeaks,
    /// One caller's rejected events are committed with the batch.
    RejectedCommitted,
    /// The position is committed before what was folded.
    #[cfg(test)]
    FoldNotAtomic,
    /// Events may name abandoned places.
    AbandonedAccepted,
    /// "Now" is answered by a look that had begun before.
    StaleLook,
    /// Within a segment, an event does not cover what stands before it.
    IndexNotCovered,
    /// A rejection is final though the tail was not looked at.
    RejectedOnOldState,
    /// A deleted manifest leaves its tags.
    DeleteLeavesTags,
    /// References of a manifest are not looked at.
    ReferencesNotChecked,
    /// A tag, an untag or a delete takes claims of other regions that its writer had not seen.
    DeleteTakesUnseen,
    /// A lock does not pin its tag.
    LockDoesNotPin,
    /// A locked tag may be changed.
    LockNotChecked,
    /// Another region's segment is imported though what it has seen is missing.
    CausesNotAwaited,
    /// Another region's segment is imported though it is not the next one.
    GapImported,
    /// Another region's segment is imported whatever hash it names.
    ForeignChainNotChecked,
    /// An append folds no imports before it names what it has seen.
    ImportsNotSeen,
    /// A segment is folded though the imports that it names are not.
    ImportsNotAwaited,
    /// A race for an import's number that was lost is taken for won.
    ImportRaceTakenForWon,
    /// Segments of a lost region count beyond the cut.
    CutIgnored,
    /// A region that is behind what others have of it goes on writing.
    OwnTailNotCompared,
    /// What is folded is trimmed, whatever snapshots there are.
    TrimmedWithoutCover,
    /// One snapshot is enough to trim.
    TrimmedOnOneSnapshot,
    /// A snapshot's shards are taken as they are.
    ShardNotVerified,
    /// Shards that lie there are taken for a snapshot, whether or not it was finished.
    SnapshotWithoutManifest,
    /// A snapshot is loaded into an index that is not empty.
    LoadedOverOldRows,
}

/// The mistake that is planted, if any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted(#[cfg(test)] pub Option<Bug>);

impl Planted {
    #[cfg(test)]
    pub fn is(self, bug: Bug) -> bool {
        self.0 == Some(bug)
    }

    #[cfg(not(test))]
    pub const fn is(self, _: Bug) -> bool {
        false
    }
}
