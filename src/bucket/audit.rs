//! Which parts of the audit record are there: for searching it, and for removing what is old.

use super::error::BucketError;
use super::key::{AUDIT, AuditFile, Key};
use super::sweep::MAX_LISTED;
use super::wire::Sending;
use super::{Bucket, ForeignBucket};

impl Bucket {
    /// The days in UTC, as `2026-11-29`, of which there is audit record, the oldest first.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn audit_days(&self) -> Result<Vec<String>, BucketError> {
        let mut days = self.wire().folders(&self.root_path(AUDIT)).await?;
        days.sort_unstable();
        Ok(days)
    }

    /// The files of one day's audit record, the oldest first: at most [`MAX_LISTED`], the newest of them.
    ///
    /// # Errors
    /// What the store answers. A listing may lack what was created while it was made.
    pub async fn list_audit(&self, day: &str) -> Result<Vec<AuditFile>, BucketError> {
        let mut files: Vec<AuditFile> = Vec::new();
        let found = |object: object_store::ObjectMeta| {
            let Some(Key::Audit(file)) = self.key(&object.location) else { return };
            files.push(file);
            if files.len() > 2 * MAX_LISTED {
                keep_last(&mut files);
            }
        };
        self.wire().list(&self.root_path(&format!("{AUDIT}/{day}")), None, found).await?;
        keep_last(&mut files);
        Ok(files)
    }

    /// Takes away what is left of a day without files: the folders of a local bucket stay where their files go. Those that are not empty
    /// stay.
    pub async fn forget_audit_day(&self, day: &str) {
        let Sending::Files(folder) = &self.wire().sending else { return };
        let day = folder.file(&self.root_path(&format!("{AUDIT}/{day}")));
        for hour in 0..24 {
            let _ = tokio::fs::remove_dir(day.join(format!("{hour:02}"))).await;
        }
        let _ = tokio::fs::remove_dir(day).await;
    }
}

impl ForeignBucket {
    /// As [`Bucket::audit_days`].
    ///
    /// # Errors
    /// What the store answers.
    pub async fn audit_days(&self) -> Result<Vec<String>, BucketError> {
        self.root().audit_days().await
    }

    /// As [`Bucket::list_audit`].
    ///
    /// # Errors
    /// What the store answers.
    pub async fn list_audit(&self, day: &str) -> Result<Vec<AuditFile>, BucketError> {
        self.root().list_audit(day).await
    }
}

fn keep_last(files: &mut Vec<AuditFile>) {
    files.sort_unstable();
    files.drain(..files.len().saturating_sub(MAX_LISTED));
}
