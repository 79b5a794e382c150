//! Which parts of a record are there: for searching it, and for removing what is old.

use super::error::BucketError;
use super::key::{Key, RecordFile, RecordKind};
use super::sweep::MAX_LISTED;
use super::wire::Sending;
use super::{Bucket, ForeignBucket};

impl Bucket {
    /// The days in UTC, as `2026-11-29`, of which there is record, the oldest first.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn record_days(&self, kind: RecordKind) -> Result<Vec<String>, BucketError> {
        let mut days = self.wire().folders(&self.root_path(kind.folder())).await?;
        days.sort_unstable();
        Ok(days)
    }

    /// The files of one day's record, the oldest first: at most [`MAX_LISTED`], the newest of them.
    ///
    /// # Errors
    /// What the store answers. A listing may lack what was created while it was made.
    pub async fn list_records(&self, kind: RecordKind, day: &str) -> Result<Vec<RecordFile>, BucketError> {
        let mut files: Vec<RecordFile> = Vec::new();
        let found = |object: object_store::ObjectMeta| {
            let Some(Key::Record(_, file)) = self.key(&object.location) else { return };
            files.push(file);
            if files.len() > 2 * MAX_LISTED {
                keep_last(&mut files);
            }
        };
        self.wire().list(&self.root_path(&format!("{}/{day}", kind.folder())), None, found).await?;
        keep_last(&mut files);
        Ok(files)
    }

    /// Takes away what is left of a day without files: the folders of a local bucket stay where their files go. Those that are not empty
    /// stay.
    pub async fn forget_record_day(&self, kind: RecordKind, day: &str) {
        let Sending::Files(folder) = &self.wire().sending else { return };
        let day = folder.file(&self.root_path(&format!("{}/{day}", kind.folder())));
        for hour in 0..24 {
            let _ = tokio::fs::remove_dir(day.join(format!("{hour:02}"))).await;
        }
        let _ = tokio::fs::remove_dir(day).await;
    }
}

impl ForeignBucket {
    /// As [`Bucket::record_days`].
    ///
    /// # Errors
    /// What the store answers.
    pub async fn record_days(&self, kind: RecordKind) -> Result<Vec<String>, BucketError> {
        self.root().record_days(kind).await
    }

    /// As [`Bucket::list_records`].
    ///
    /// # Errors
    /// What the store answers.
    pub async fn list_records(&self, kind: RecordKind, day: &str) -> Result<Vec<RecordFile>, BucketError> {
        self.root().list_records(kind, day).await
    }
}

fn keep_last(files: &mut Vec<RecordFile>) {
    files.sort_unstable();
    files.drain(..files.len().saturating_sub(MAX_LISTED));
}
