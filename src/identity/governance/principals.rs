//! Principals that are made at run time, and the admin user: both have two secrets, of which either is replaced while the other works.

use serde::Serialize;

use super::{Change, Changed, Governance, GovernanceError, demand, in_configuration, refuse_beyond, removed, written};
use crate::access::{Operation, Permit};
use crate::clock::Timestamp;
use crate::config::{Secret, is_user};
use crate::identity::control::{ADMIN, Control, IdentityKind, IdentityRecord, NUMBERS, Number, SecretRecord, secret_name};
use crate::identity::passwords::new_secret;
use crate::ledger::Event;

/// Principals that are made at run time, at most.
const MAX_PRINCIPALS: usize = 4_096;
/// Who signs in by a token says that it is this one (Azure Container Registry, "Authenticate").
const BY_TOKEN: &str = "00000000-0000-0000-0000-000000000000";

/// A principal, as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Principal {
    pub name: String,
    /// `service`, `admin`, or `fixed` for one that stands in the configuration.
    pub kind: &'static str,
    pub enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_ms: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<Timestamp>,
    pub secrets: Vec<ShownSecret>,
}

/// A secret without what is secret.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShownSecret {
    /// 1 or 2.
    pub number: u8,
    pub created_ms: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<Timestamp>,
}

/// What a new principal is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct NewPrincipal {
    pub name: String,
    pub expires: Option<Timestamp>,
    pub secret_expires: Option<Timestamp>,
}

/// Whether a principal may sign in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Enabled,
    Disabled,
}

/// A new secret: this is the only time that it is told.
#[derive(Clone, Debug)]
pub struct Made {
    pub number: Number,
    pub secret: Secret,
    pub expires: Option<Timestamp>,
}

impl Governance {
    /// All principals, by name: those of the configuration, those that were made at run time, the admin user.
    pub fn principals(&self, permit: Permit) -> Result<Vec<Principal>, GovernanceError> {
        demand(permit, Operation::ReadSettings)?;
        let (fixed, control) = (self.fixed(), self.control());
        let made = control.identities.iter().filter(|(name, _)| !fixed.has_principal(name) && &***name != ADMIN);
        let mut all: Vec<Principal> = made.map(|(name, record)| shown(name, record)).collect();
        all.extend(fixed.principals.iter().map(|name| of_configuration(name)));
        all.extend((!fixed.has_principal(ADMIN)).then(|| admin(&control)));
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    /// # Errors
    /// There is none of this name.
    pub fn principal(&self, permit: Permit, name: &str) -> Result<Principal, GovernanceError> {
        demand(permit, Operation::ReadSettings)?;
        if self.fixed().has_principal(name) {
            return Ok(of_configuration(name));
        }
        let control = self.control();
        match name {
            ADMIN => Ok(admin(&control)),
            _ => control.identities.get(name).map(|record| shown(name, record)).ok_or_else(|| unknown(name)),
        }
    }

    /// Makes a principal and its first secret.
    ///
    /// # Errors
    /// The name is none, or is taken.
    pub async fn create_principal(&self, permit: Permit, new: &NewPrincipal) -> Result<Changed<Vec<Made>>, GovernanceError> {
        let name = &*new.name;
        if !is_user(name) {
            let form = "1 to 128 letters, digits and . _ @ + -, and not \"anonymous\"";
            return Err(GovernanceError::Invalid(format!("{name:?} is not a principal's name: {form}")));
        }
        if [ADMIN, BY_TOKEN].contains(&name) {
            return Err(GovernanceError::Conflict(format!("{name} has a meaning of its own: choose another name")));
        }
        let change = self.begin(permit, Operation::AssignRoles).await?;
        if self.fixed().has_principal(name) {
            return Err(in_configuration(name));
        }
        if change.control.identities.contains_key(name) {
            return Err(GovernanceError::Conflict(format!("there is a principal {name} already")));
        }
        refuse_beyond(change.control.identities.len(), MAX_PRINCIPALS, "principals")?;
        let created = self.0.clock.now();
        let record = IdentityRecord { kind: IdentityKind::Service, enabled: true, created, expires: new.expires, secrets: [None, None] };
        let (made, event) = self.make(name, Number::First, new.secret_expires).await?;
        change.append(vec![Event::Identity(written(name, &record)), event], vec![made]).await
    }

    /// Lets a principal sign in, or not any more. The admin user gets its two secrets when it is enabled for the first time.
    ///
    /// # Errors
    /// There is none of this name, or it stands in the configuration.
    pub async fn set_standing(&self, permit: Permit, name: &str, standing: Standing) -> Result<Changed<Vec<Made>>, GovernanceError> {
        let change = self.begin(permit, Operation::AssignRoles).await?;
        let record = self.changeable(&change, name)?;
        let enabled = standing == Standing::Enabled;
        let has_no_secret = record.secrets.iter().all(Option::is_none);
        if record.enabled == enabled {
            return change.keep(Vec::new());
        }
        // The secrets have records of their own.
        let record = IdentityRecord { enabled, secrets: [None, None], ..record };
        let (mut made, mut events) = (Vec::new(), vec![Event::Identity(written(name, &record))]);
        if enabled && has_no_secret && record.kind == IdentityKind::Admin {
            for number in NUMBERS {
                let (secret, event) = self.make(name, number, None).await?;
                made.push(secret);
                events.push(event);
            }
        }
        change.append(events, made).await
    }

    /// Removes a principal, its secrets and its roles: one of the same name that is made later is another one.
    ///
    /// # Errors
    /// There is none of this name, or it stands in the configuration, or is the admin user.
    pub async fn delete_principal(&self, permit: Permit, name: &str) -> Result<Changed, GovernanceError> {
        let change = self.begin(permit, Operation::AssignRoles).await?;
        self.changeable(&change, name)?;
        if name == ADMIN {
            return Err(GovernanceError::Conflict("the admin user is disabled, not deleted".to_owned()));
        }
        let roles = change.control.roles.iter().filter(|(_, role)| role.to == name);
        let mut events = vec![Event::Identity(removed(name))];
        events.extend(NUMBERS.map(|number| Event::Identity(removed(&secret_name(name, number)))));
        events.extend(roles.map(|(id, _)| Event::Role(removed(id))));
        change.append(events, ()).await
    }

    /// Replaces one secret; the other one stays as it is.
    ///
    /// # Errors
    /// There is no principal of this name, or it stands in the configuration.
    pub async fn regenerate(
        &self,
        permit: Permit,
        (name, number): (&str, Number),
        expires: Option<Timestamp>,
    ) -> Result<Changed<Vec<Made>>, GovernanceError> {
        let change = self.begin(permit, Operation::AssignRoles).await?;
        self.changeable(&change, name)?;
        if name == ADMIN && !change.control.identities.contains_key(ADMIN) {
            return Err(GovernanceError::Conflict("the admin user was never enabled".to_owned()));
        }
        let (made, event) = self.make(name, number, expires).await?;
        change.append(vec![event], vec![made]).await
    }

    /// Removes one secret; the other one stays as it is.
    ///
    /// # Errors
    /// There is no such principal or secret, or it stands in the configuration.
    pub async fn remove_secret(&self, permit: Permit, (name, number): (&str, Number)) -> Result<Changed, GovernanceError> {
        let change = self.begin(permit, Operation::AssignRoles).await?;
        let record = self.changeable(&change, name)?;
        if record.secrets[number.index()].is_none() {
            return Err(GovernanceError::Unknown(format!("secret {} of {name}", number.as_str())));
        }
        change.append(vec![Event::Identity(removed(&secret_name(name, number)))], ()).await
    }

    /// The record of a principal that is not the configuration's.
    fn changeable(&self, change: &Change<'_>, name: &str) -> Result<IdentityRecord, GovernanceError> {
        if self.fixed().has_principal(name) {
            return Err(in_configuration(name));
        }
        match change.control.identities.get(name) {
            Some(record) => Ok(record.clone()),
            None if name == ADMIN => Ok(IdentityRecord {
                kind: IdentityKind::Admin,
                enabled: false,
                created: self.0.clock.now(),
                expires: None,
                secrets: [None, None],
            }),
            None => Err(unknown(name)),
        }
    }

    async fn make(&self, name: &str, number: Number, expires: Option<Timestamp>) -> Result<(Made, Event), GovernanceError> {
        let secret = new_secret();
        let record = SecretRecord { hash: self.0.passwords.hash(&secret).await?, created: self.0.clock.now(), expires };
        let event = Event::Identity(written(&secret_name(name, number), &record));
        Ok((Made { number, secret, expires }, event))
    }
}

fn unknown(name: &str) -> GovernanceError {
    GovernanceError::Unknown(format!("principal {name:?}"))
}

fn of_configuration(name: &str) -> Principal {
    Principal { name: name.to_owned(), kind: "fixed", enabled: true, created_ms: None, expires_ms: None, secrets: Vec::new() }
}

/// The admin user, be it that it was never enabled.
fn admin(control: &Control) -> Principal {
    match control.identities.get(ADMIN) {
        Some(record) => shown(ADMIN, record),
        None => {
            Principal { name: ADMIN.to_owned(), kind: "admin", enabled: false, created_ms: None, expires_ms: None, secrets: Vec::new() }
        }
    }
}

fn shown(name: &str, record: &IdentityRecord) -> Principal {
    let secrets = (1..).zip(&record.secrets).filter_map(|(number, secret)| {
        let secret = secret.as_ref()?;
        Some(ShownSecret { number, created_ms: secret.created, expires_ms: secret.expires })
    });
    Principal {
        name: name.to_owned(),
        kind: match record.kind {
            IdentityKind::Service => "service",
            IdentityKind::Admin => "admin",
        },
        enabled: record.enabled,
        created_ms: Some(record.created),
        expires_ms: record.expires,
        secrets: secrets.collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use super::*;
    use crate::identity::governance::Fixed;
    use crate::identity::governance::testing::{World, permit};
    use crate::identity::passwords::Attempt;
    use crate::identity::{AuthError, RoleRecord};

    const ASSIGN: Operation = Operation::AssignRoles;

    fn named(name: &str) -> NewPrincipal {
        NewPrincipal { name: name.to_owned(), expires: None, secret_expires: None }
    }

    /// Whether these are somebody's credentials.
    async fn signs_in(world: &World, name: &str, secret: &Secret) -> bool {
        let address = IpAddr::from([10, 0, 0, 1]);
        let attempt = Attempt { name: name.as_bytes(), password: secret.expose().as_bytes(), address, is_configured: false };
        match world.passwords.verify(attempt).await {
            Ok((found, _)) => &*found == name,
            Err(error) => {
                assert_eq!(error, AuthError::Refused);
                false
            }
        }
    }

    #[tokio::test]
    async fn a_principal_signs_in_by_the_secrets_that_were_made_for_it() {
        let world = World::new().await;
        let created = world.governance.create_principal(permit(ASSIGN), &named("ci")).await.unwrap();
        let [first] = created.made.as_slice() else { panic!("one secret") };
        assert_eq!((first.number, created.position.seq), (Number::First, 1));
        assert!(signs_in(&world, "ci", &first.secret).await, "at once");
        let second = world.governance.regenerate(permit(ASSIGN), ("ci", Number::Second), None).await.unwrap().made.remove(0);
        let third = world.governance.regenerate(permit(ASSIGN), ("ci", Number::First), None).await.unwrap().made.remove(0);
        for (secret, is_good) in [(&first.secret, false), (&second.secret, true), (&third.secret, true)] {
            assert_eq!(signs_in(&world, "ci", secret).await, is_good);
        }
        world.governance.remove_secret(permit(ASSIGN), ("ci", Number::Second)).await.unwrap();
        assert!(!signs_in(&world, "ci", &second.secret).await);
        let shown = world.governance.principal(permit(Operation::ReadSettings), "ci").unwrap();
        assert_eq!(shown.secrets.iter().map(|secret| secret.number).collect::<Vec<_>>(), [1]);
        assert!(!serde_json::json!(shown).to_string().contains("argon2"));
    }

    #[tokio::test]
    async fn a_principal_is_disabled_enabled_and_deleted_with_its_roles() {
        let world = World::new().await;
        let made = world.governance.create_principal(permit(ASSIGN), &named("ci")).await.unwrap().made.remove(0);
        let role = RoleRecord { role: "Reader".into(), to: "ci".into(), repositories: None };
        world.governance.assign(permit(ASSIGN), role).await.unwrap();
        for (standing, is_good) in [(Standing::Disabled, false), (Standing::Disabled, false), (Standing::Enabled, true)] {
            world.governance.set_standing(permit(ASSIGN), "ci", standing).await.unwrap();
            assert_eq!(signs_in(&world, "ci", &made.secret).await, is_good, "{standing:?}");
        }
        world.governance.delete_principal(permit(ASSIGN), "ci").await.unwrap();
        assert!(!signs_in(&world, "ci", &made.secret).await);
        assert_eq!(*world.governance.control(), Control::default());
        let again = world.governance.create_principal(permit(ASSIGN), &named("ci")).await.unwrap().made.remove(0);
        assert!(signs_in(&world, "ci", &again.secret).await && !signs_in(&world, "ci", &made.secret).await);
    }

    #[tokio::test]
    async fn secrets_and_principals_expire() {
        let world = World::new().await;
        let after = |seconds| Some(world.clock.now().plus(Duration::from_secs(seconds)));
        let new = NewPrincipal { expires: after(20), secret_expires: after(10), ..named("ci") };
        let first = world.governance.create_principal(permit(ASSIGN), &new).await.unwrap().made.remove(0);
        let second = world.governance.regenerate(permit(ASSIGN), ("ci", Number::Second), None).await.unwrap().made.remove(0);
        assert!(signs_in(&world, "ci", &first.secret).await && signs_in(&world, "ci", &second.secret).await);
        world.clock.advance(Duration::from_secs(10));
        assert!(!signs_in(&world, "ci", &first.secret).await && signs_in(&world, "ci", &second.secret).await);
        world.clock.advance(Duration::from_secs(10));
        assert!(!signs_in(&world, "ci", &second.secret).await);
    }

    #[tokio::test]
    async fn row_73_the_admin_user_is_off_until_it_is_enabled() {
        let world = World::new().await;
        for guess in ["admin", "password", ""] {
            assert!(!signs_in(&world, ADMIN, &Secret::new(guess.to_owned())).await, "{guess}");
        }
        let shown = || world.governance.principal(permit(Operation::ReadSettings), ADMIN).unwrap();
        assert!(!shown().enabled && shown().secrets.is_empty());
        let regenerated = world.governance.regenerate(permit(ASSIGN), (ADMIN, Number::First), None).await;
        assert!(matches!(regenerated, Err(GovernanceError::Conflict(_))), "{regenerated:?}");
        let made = world.governance.set_standing(permit(ASSIGN), ADMIN, Standing::Enabled).await.unwrap().made;
        assert_eq!(made.len(), 2);
        for one in &made {
            assert!(signs_in(&world, ADMIN, &one.secret).await);
        }
        assert!(world.governance.set_standing(permit(ASSIGN), ADMIN, Standing::Disabled).await.unwrap().made.is_empty());
        assert!(!signs_in(&world, ADMIN, &made[0].secret).await);
        // Its secrets are the same when it is enabled again.
        assert!(world.governance.set_standing(permit(ASSIGN), ADMIN, Standing::Enabled).await.unwrap().made.is_empty());
        assert!(signs_in(&world, ADMIN, &made[0].secret).await);
        assert!(world.governance.delete_principal(permit(ASSIGN), ADMIN).await.is_err());
    }

    #[tokio::test]
    async fn names_are_well_formed_and_not_taken_and_what_is_configured_is_fixed() {
        let world = World::new().await;
        world.governance.set_fixed(Fixed { principals: vec!["root".into()], ..Fixed::default() });
        world.governance.create_principal(permit(ASSIGN), &named("ci")).await.unwrap();
        for name in ["", "anonymous", "a b", "a:b", "a/1", "\u{e9}"] {
            let refused = world.governance.create_principal(permit(ASSIGN), &named(name)).await;
            assert!(matches!(refused, Err(GovernanceError::Invalid(_))), "{name}: {refused:?}");
        }
        for name in ["root", "ci", ADMIN, BY_TOKEN] {
            let refused = world.governance.create_principal(permit(ASSIGN), &named(name)).await;
            assert!(matches!(refused, Err(GovernanceError::Conflict(_))), "{name}: {refused:?}");
        }
        let (deleted, disabled) = (
            world.governance.delete_principal(permit(ASSIGN), "root").await.map(drop),
            world.governance.set_standing(permit(ASSIGN), "root", Standing::Disabled).await.map(drop),
        );
        let regenerated = world.governance.regenerate(permit(ASSIGN), ("root", Number::First), None).await.map(drop);
        for refused in [deleted, disabled, regenerated] {
            assert_eq!(refused, Err(in_configuration("root")));
        }
        assert_eq!(world.governance.delete_principal(permit(ASSIGN), "nobody").await.map(drop), Err(unknown("nobody")));
        let all = world.governance.principals(permit(Operation::ReadSettings)).unwrap();
        let kinds: Vec<_> = all.iter().map(|one| (one.name.as_str(), one.kind)).collect();
        assert_eq!(kinds, [("admin", "admin"), ("ci", "service"), ("root", "fixed")]);
    }

    #[tokio::test]
    async fn a_permit_for_something_else_is_none() {
        let world = World::new().await;
        for operation in [Operation::List, Operation::ReadSettings, Operation::ReadAudit, Operation::ChangeSettings] {
            let refused = world.governance.create_principal(permit(operation), &named("ci")).await;
            assert_eq!(refused.map(drop), Err(GovernanceError::Denied), "{operation:?}");
        }
        assert_eq!(world.governance.principals(permit(ASSIGN)).map(drop), Err(GovernanceError::Denied));
    }

    #[tokio::test]
    async fn what_regions_change_apart_undoes_nothing() {
        let world = World::new().await;
        let first = world.governance.create_principal(permit(ASSIGN), &named("ci")).await.unwrap().made.remove(0);
        // Disabled by somebody who has not seen the new secret, whose record comes after it.
        let disabled = {
            let record = world.governance.control().identities["ci"].clone();
            written("ci", &IdentityRecord { enabled: false, secrets: [None, None], ..record })
        };
        let second = world.governance.regenerate(permit(ASSIGN), ("ci", Number::First), None).await.unwrap().made.remove(0);
        world.ledger.append(vec![Event::Identity(disabled)]).await.unwrap();
        world.governance.set_standing(permit(ASSIGN), "ci", Standing::Enabled).await.unwrap();
        assert!(signs_in(&world, "ci", &second.secret).await && !signs_in(&world, "ci", &first.secret).await);
    }
}
