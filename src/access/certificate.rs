//! What a client's certificate is known by.

use std::fmt;
use std::str::FromStr;

use crate::oci::Digest;

/// One way to name a certificate. Those that say more of it come first: where a certificate has several, the first that is known counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CertificateName {
    /// SHA-256 of the whole certificate in its DER form: no other certificate has it.
    Fingerprint(Digest),
    /// A URI among its subject alternative names, such as a SPIFFE ID (RFC 5280, section 4.2.1.6).
    Uri(String),
    /// A DNS name among them, in lower case.
    Dns(String),
    /// The common name of its subject.
    CommonName(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a certificate is named by \"sha256:\" and its fingerprint, a URI such as \"spiffe://...\", \"dns:\" and a DNS name, or \"CN=\" and its common name"
)]
pub struct CertificateNameError;

impl FromStr for CertificateName {
    type Err = CertificateNameError;

    /// A fingerprint may have the colons and the capital letters with which tools print it.
    fn from_str(text: &str) -> Result<CertificateName, CertificateNameError> {
        let named = |name: &str| if name.is_empty() { Err(CertificateNameError) } else { Ok(name.to_owned()) };
        if let Some(hex) = text.strip_prefix("sha256:") {
            let plain = hex.replace(':', "").to_ascii_lowercase();
            return format!("sha256:{plain}").parse().map(CertificateName::Fingerprint).map_err(|_| CertificateNameError);
        }
        if let Some(name) = text.strip_prefix("dns:") {
            return named(name).map(|name| CertificateName::Dns(name.to_ascii_lowercase()));
        }
        if let Some(name) = text.strip_prefix("CN=") {
            return named(name).map(CertificateName::CommonName);
        }
        match text.split_once("://") {
            Some((scheme, rest)) if !scheme.is_empty() && !rest.is_empty() => Ok(CertificateName::Uri(text.to_owned())),
            _ => Err(CertificateNameError),
        }
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CertificateName::Fingerprint(digest) => digest.fmt(f),
            CertificateName::Uri(uri) => f.write_str(uri),
            CertificateName::Dns(name) => write!(f, "dns:{name}"),
            CertificateName::CommonName(name) => write!(f, "CN={name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        let fingerprint = Digest::sha256(b"").to_string();
        for text in ["CN=build robot", "dns:ci.example.com", "spiffe://example.com/ci", &fingerprint] {
            assert_eq!(text.parse::<CertificateName>().unwrap().to_string(), text);
        }
        let printed: Vec<String> =
            fingerprint[7..].to_uppercase().as_bytes().chunks(2).map(|two| String::from_utf8_lossy(two).into()).collect();
        assert_eq!(format!("sha256:{}", printed.join(":")).parse(), fingerprint.parse::<CertificateName>());
        assert_eq!("dns:CI.example.com".parse(), Ok(CertificateName::Dns("ci.example.com".into())));
        for text in ["", "ci", "CN=", "dns:", "sha256:ab", "sha512:ab", "://x", "spiffe://", "cn=ci"] {
            assert_eq!(text.parse::<CertificateName>(), Err(CertificateNameError), "{text}");
        }
    }
}
