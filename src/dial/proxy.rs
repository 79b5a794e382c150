//! The proxies that the environment names, and the tunnel through one.

use std::future::{Ready, ready};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderValue, Uri};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tower_service::Service;

use super::DialError;
use super::error::chain;
use super::link::Link;

/// Which requests go through a proxy, and through which. Its `Debug` shows no credentials.
#[derive(Clone, Debug)]
pub struct Proxies(Arc<Matcher>);

impl Proxies {
    /// From `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, upper or lower case, as curl reads them. A proxy's URL may
    /// have user and password. Proxies are `http` or `https`; SOCKS is refused when a request would need it.
    pub fn from_environment() -> Proxies {
        Proxies(Arc::new(Matcher::from_env()))
    }

    /// No proxy at all.
    pub fn none() -> Proxies {
        Proxies(Arc::new(Matcher::builder().build()))
    }

    #[cfg(test)]
    pub(super) fn fixed(all: &str, except: &str) -> Proxies {
        Proxies(Arc::new(Matcher::builder().all(all).no(except).build()))
    }

    pub(super) fn intercept(&self, uri: &Uri) -> Option<Intercept> {
        self.0.intercept(uri)
    }
}

/// Asks the proxy at the other end of `link` for a tunnel to `target` (RFC 9110, 9.3.6).
///
/// # Errors
/// [`DialError::Proxy`] when it grants none.
pub(super) async fn tunnel(link: TokioIo<Link>, proxy: &Intercept, target: Uri) -> Result<TokioIo<Link>, DialError> {
    let mut tunnel = Tunnel::new(proxy.uri().clone(), Established(Some(link)));
    if let Some(credentials) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(HeaderValue::clone(credentials));
    }
    let refused = |why| DialError::Proxy { proxy: proxy.uri().host().unwrap_or_default().to_owned(), why };
    tunnel.call(target).await.map_err(|error| refused(chain(&error)))
}

/// Hands [`Tunnel`] the connection that is already there: it was resolved, raced and encrypted like any other.
struct Established(Option<TokioIo<Link>>);

impl Service<Uri> for Established {
    type Response = TokioIo<Link>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<Link>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.0.take().ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}
