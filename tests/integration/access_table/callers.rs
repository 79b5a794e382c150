//! Who asks, and what the words of the documentation give them.

/// What somebody may do to a repository, in the words of the table of roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    Pull,
    Push,
    Delete,
    ReadMetadata,
    WriteMetadata,
}

/// The table of roles (Azure Container Registry, "Roles and permissions"): what each lets one do.
pub const ROLES: [(&str, &[Right]); 6] = [
    ("AcrPull", &[Right::Pull, Right::ReadMetadata]),
    ("AcrPush", &[Right::Pull, Right::Push, Right::ReadMetadata]),
    ("AcrDelete", &[Right::Delete, Right::ReadMetadata]),
    ("Reader", &[Right::Pull, Right::ReadMetadata]),
    ("Contributor", &[Right::Pull, Right::Push, Right::Delete, Right::ReadMetadata, Right::WriteMetadata]),
    ("Owner", &[Right::Pull, Right::Push, Right::Delete, Right::ReadMetadata, Right::WriteMetadata]),
];

/// Where a role is held: on repositories whose names begin so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    Everywhere,
    Below(&'static str),
}

impl Held {
    pub fn pattern(self) -> Option<String> {
        match self {
            Held::Everywhere => None,
            Held::Below(start) => Some(format!("{start}**")),
        }
    }

    fn reaches(self, repository: &str) -> bool {
        match self {
            Held::Everywhere => true,
            Held::Below(start) => repository.starts_with(start),
        }
    }
}

/// What a caller is to the edge that it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It shows nothing.
    Anonymous,
    /// It shows something that proves who it is.
    Proven,
    /// What it shows proves nothing, or nothing any more.
    Refused,
    /// Its address is denied.
    KeptOut,
}

/// Somebody who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    /// For what a test says.
    pub name: String,
    pub standing: Standing,
    pub role: Option<(&'static str, Held)>,
}

impl Caller {
    pub fn anonymous() -> Caller {
        Caller { name: "anonymous".to_owned(), standing: Standing::Anonymous, role: None }
    }

    pub fn proven(name: &str, role: Option<(&'static str, Held)>) -> Caller {
        Caller { name: name.to_owned(), standing: Standing::Proven, role }
    }

    pub fn refused(name: &str) -> Caller {
        Caller { name: name.to_owned(), standing: Standing::Refused, role: None }
    }

    /// One with each role on all repositories and one with it on some, and one without any.
    pub fn of_roles() -> Vec<Caller> {
        let of_role = |(role, _): (&'static str, _)| {
            [("all", Held::Everywhere), ("team", Held::Below("team/"))]
                .map(|(kind, held)| Caller::proven(&format!("{role}-{kind}"), Some((role, held))))
        };
        [Caller::proven("nobody", None)].into_iter().chain(ROLES.into_iter().flat_map(of_role)).collect()
    }

    pub fn may(&self, right: Right, repository: &str) -> bool {
        let everybody = repository.starts_with("open/") && matches!(right, Right::Pull | Right::ReadMetadata);
        let has = |(role, held): (&str, Held)| {
            let rights = ROLES.iter().find(|(name, _)| *name == role).map(|(_, rights)| *rights).unwrap_or_default();
            held.reaches(repository) && rights.contains(&right)
        };
        match self.standing {
            Standing::Refused | Standing::KeptOut => false,
            Standing::Anonymous | Standing::Proven => everybody || self.role.is_some_and(has),
        }
    }

    /// What it is answered where it may not, and may know that the repository is there or not.
    pub fn denial(&self, may_know: bool) -> (u16, Option<&'static str>) {
        match self.standing {
            Standing::Anonymous | Standing::Refused => (401, None),
            Standing::KeptOut => (403, Some("DENIED")),
            Standing::Proven if may_know => (403, Some("DENIED")),
            Standing::Proven => (404, None),
        }
    }
}
