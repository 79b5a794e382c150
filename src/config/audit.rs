//! `[audit]`: the record of who did what.

use super::reader::Section;
use super::records::{self, Keeping};
use super::schema::mebibytes;

/// How the audit record is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Whether anything is recorded.
    pub enabled: bool,
    /// Whether pulls and lists that were allowed are recorded too; those that were denied always are.
    pub pulls: bool,
    pub keeping: Keeping,
}

pub(super) fn read(mut section: Section<'_, '_, '_>) -> Audit {
    let audit = Audit {
        enabled: section.or("enabled", true),
        pulls: section.or("pulls", true),
        keeping: records::read(&mut section, mebibytes(512), 90),
    };
    section.finish();
    audit
}

#[cfg(test)]
mod tests {
    use crate::config::tests::parse;

    #[test]
    fn the_audit_record_is_kept_unless_somebody_says_otherwise() {
        let audit = parse("").unwrap().audit;
        assert!(audit.enabled && audit.pulls);
        let audit = parse("[audit]\nenabled = false\nkeep = \"365d\"").unwrap().audit;
        assert_eq!((audit.enabled, audit.keeping.keep.as_secs()), (false, 365 * 86_400));
    }
}
