//! OpenID Connect: who people and workloads are, by tokens of the providers that the configuration names.
//!
//! A token names its issuer; only a provider of exactly that name is asked for keys, and only those keys count. What a token says about
//! where its key is (`jwk`, `jku`, `x5u`, `x5c`) is a reason to refuse it.

mod keys;
mod provider;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod token;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use serde::Serialize;

use super::Subject;
use crate::clock::Clock;
use crate::config;
use crate::dial::{DialError, Proxies, Resolver};
use crate::metrics::Metrics;
use provider::Provider;
use token::Token;

/// Why a provider's token establishes nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OidcError {
    /// 401. The reason is for the log.
    #[error("the provider's token is not accepted: {0}")]
    Refused(&'static str),
    /// The provider never answered since this edge started, or is slow just now: 503.
    #[error("the keys of {0} are not known")]
    Unavailable(String),
}

/// The configured providers. Cloning is cheap; all clones are one.
#[derive(Clone)]
pub struct Oidc(Arc<Inner>);

struct Inner {
    providers: RwLock<Providers>,
    resolver: Resolver,
    proxies: Proxies,
    clock: Clock,
    metrics: Metrics,
}

/// Providers that are ready to be used.
pub struct Providers(Arc<[Arc<Provider>]>);

/// Where and how `outport login` signs people in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SignIn {
    pub issuer: String,
    pub client_id: String,
    pub audience: String,
    pub scope: String,
    /// RFC 8628, section 3.1; `None` if the provider has no device flow, or has not answered yet.
    pub device_authorization_endpoint: Option<String>,
    pub token_endpoint: Option<String>,
}

impl Oidc {
    /// Begins to fetch keys.
    ///
    /// # Errors
    /// Certificate authorities that cannot be read.
    pub fn start(
        providers: &[config::Oidc],
        resolver: Resolver,
        proxies: Proxies,
        clock: Clock,
        metrics: Metrics,
    ) -> Result<Oidc, DialError> {
        let none = RwLock::new(Providers(Arc::new([])));
        let oidc = Oidc(Arc::new(Inner { providers: none, resolver, proxies, clock, metrics }));
        oidc.replace(oidc.prepare(providers)?);
        Ok(oidc)
    }

    /// Makes providers of a new configuration, for [`replace`](Self::replace). One that is configured as before goes on with its keys;
    /// with certificate authorities of its own it is made anew, for the file may have changed, and knows what it knew.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn prepare(&self, wanted: &[config::Oidc]) -> Result<Providers, DialError> {
        let present = self.providers();
        let prepared = wanted.iter().map(|wanted| {
            let earlier = present.iter().find(|provider| provider.settings().issuer == wanted.issuer);
            match earlier {
                Some(same) if same.settings() == wanted && wanted.ca_file.is_none() => Ok(same.clone()),
                _ => {
                    let Inner { resolver, proxies, clock, metrics, .. } = self.0.as_ref();
                    let client = provider::client(wanted, resolver.clone(), proxies.clone())?;
                    let known = earlier.map(|earlier| earlier.known()).unwrap_or_default();
                    Ok(Arc::new(Provider::start(wanted.clone(), client, known, clock.clone(), metrics.clone())))
                }
            }
        });
        prepared.collect::<Result<_, _>>().map(Providers)
    }

    /// From now on these are the providers.
    pub fn replace(&self, providers: Providers) {
        *self.0.providers.write().unwrap_or_else(PoisonError::into_inner) = providers;
    }

    fn providers(&self) -> Arc<[Arc<Provider>]> {
        self.0.providers.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Whether nobody can sign in.
    pub fn is_empty(&self) -> bool {
        self.providers().is_empty()
    }

    /// Establishes who a provider's token is about. Its name is that of no principal but what the provider says: whoever has principals
    /// of other kinds compares.
    ///
    /// # Errors
    /// See [`OidcError`].
    pub async fn verify(&self, token: &str) -> Result<Subject, OidcError> {
        let token = Token::read(token)?;
        let providers = self.providers();
        let provider = providers.iter().find(|provider| provider.settings().issuer == token.issuer());
        let provider = provider.ok_or(OidcError::Refused("its issuer is not configured"))?;
        // What can be judged without a key comes first: no key is fetched for a token that would be refused anyway.
        let subject = token.subject(provider.settings(), self.0.clock.now())?;
        let key = provider.key(token.key_id()).await?;
        token.verify(&key)?;
        Ok(subject)
    }

    /// Where people sign in.
    pub fn sign_ins(&self) -> Vec<SignIn> {
        self.providers().iter().filter_map(|provider| provider.sign_in()).collect()
    }
}

impl fmt::Debug for Oidc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.providers().iter().map(|provider| &provider.settings().issuer)).finish()
    }
}
