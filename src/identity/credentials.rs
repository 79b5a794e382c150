//! What a request shows of its caller: the `Authorization` header (RFC 9110, section 11.6.2).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use super::AuthError;
use super::claims::MAX_TOKEN_BYTES;

/// The longest credentials that are looked at, in bytes: a name and the longest token in base64, and the scheme.
const MAX_CREDENTIALS_BYTES: usize = MAX_TOKEN_BYTES / 3 * 4 + 512;

/// Not verified yet.
pub enum Credentials<'a> {
    /// RFC 7617.
    Basic { name: Vec<u8>, password: Vec<u8> },
    /// RFC 6750, section 2.1.
    Bearer(&'a str),
}

impl<'a> Credentials<'a> {
    /// From all `Authorization` headers of a request; `None` where there is none.
    ///
    /// # Errors
    /// [`AuthError::Malformed`], and [`AuthError::Refused`] for a scheme that is none of ours.
    pub fn read(authorization: impl IntoIterator<Item = &'a HeaderValue>) -> Result<Option<Credentials<'a>>, AuthError> {
        let mut headers = authorization.into_iter();
        let Some(header) = headers.next() else { return Ok(None) };
        if headers.next().is_some() || header.len() > MAX_CREDENTIALS_BYTES {
            return Err(AuthError::Malformed);
        }
        let (scheme, credentials) = header.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(AuthError::Malformed)?;
        let credentials = credentials.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Ok(Some(Credentials::Bearer(credentials)));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(AuthError::Refused);
        }
        let mut name = STANDARD.decode(credentials).map_err(|_| AuthError::Malformed)?;
        let colon = name.iter().position(|byte| *byte == b':').ok_or(AuthError::Malformed)?;
        let password = name.split_off(colon + 1);
        name.truncate(colon);
        Ok(Some(Credentials::Basic { name, password }))
    }
}
