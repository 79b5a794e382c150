//! `[bucket]`: where the region's object store is, and how to speak to it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use super::peers::Regions;
use super::reader::Section;
use super::schema::{MILLISECONDS_100, MINUTE, mebibytes, require_pem, seconds, secret_of_file, secret_of_variable};
use super::{Acknowledge, ByteSize, Secret};

/// The region's object store, which all edges of the region share.
#[derive(Clone, Debug, PartialEq)]
pub struct Bucket {
    pub place: BucketPlace,
    /// What its client is told, by the client's own names of options. All are held as secrets: some are.
    pub options: BTreeMap<String, Secret>,
    /// Further certificate authorities of its server, PEM.
    pub ca_file: Option<PathBuf>,
    /// How long one request may wait for its answer.
    pub request_timeout: Duration,
    /// The size of the parts in which larger content is sent.
    pub part_size: ByteSize,
}

/// Which store, and which part of it. A prefix has no slash at either end and may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BucketPlace {
    /// A folder.
    File(PathBuf),
    /// This process's memory: nothing is kept.
    Memory,
    S3 {
        bucket: String,
        prefix: String,
    },
    Azure {
        container: String,
        prefix: String,
    },
    Google {
        bucket: String,
        prefix: String,
    },
}

impl BucketPlace {
    pub(super) fn read(text: &str) -> Result<BucketPlace, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or((text, ""));
        let named = |what: &str| {
            let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let prefix = prefix.trim_end_matches('/');
            match is_bucket(name) && is_prefix(prefix) {
                true => Ok((name.to_owned(), prefix.to_owned())),
                // Not repeated: it may hold a password.
                false => Err(format!("not of the form {scheme}://{what}/prefix, of letters, digits and . _ - and /")),
            }
        };
        match scheme {
            "file" => folder(text).map(BucketPlace::File),
            "memory" if rest.is_empty() || rest == "/" => Ok(BucketPlace::Memory),
            "s3" => named("bucket").map(|(bucket, prefix)| BucketPlace::S3 { bucket, prefix }),
            "az" => named("container").map(|(container, prefix)| BucketPlace::Azure { container, prefix }),
            "gs" => named("bucket").map(|(bucket, prefix)| BucketPlace::Google { bucket, prefix }),
            _ => Err("the URL must begin with file:///, s3://, az:// or gs://, or be memory://".to_owned()),
        }
    }
}

impl fmt::Display for BucketPlace {
    /// The URL that reads back as this place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, name, prefix) = match self {
            BucketPlace::File(path) => {
                // A relative folder, the built-in default, has no URL.
                return match Url::from_file_path(path) {
                    Ok(url) => url.fmt(f),
                    Err(()) => write!(f, "file:{}", path.display()),
                };
            }
            BucketPlace::Memory => return f.write_str("memory://"),
            BucketPlace::S3 { bucket, prefix } => ("s3", bucket, prefix),
            BucketPlace::Azure { container, prefix } => ("az", container, prefix),
            BucketPlace::Google { bucket, prefix } => ("gs", bucket, prefix),
        };
        let slash = if prefix.is_empty() { "" } else { "/" };
        write!(f, "{scheme}://{name}{slash}{prefix}")
    }
}

const PART_SIZE: ByteSize = mebibytes(8);
/// The longest name that a store takes is shorter; this keeps errors and keys in bounds.
const MAX_NAME_CHARS: usize = 255;

fn is_bucket(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-$".contains(&byte);
    (1..=MAX_NAME_CHARS).contains(&name.len()) && name.bytes().all(fits)
}

fn is_prefix(prefix: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(fits);
    prefix.is_empty() || prefix.len() <= MAX_NAME_CHARS && prefix.split('/').all(part)
}

fn folder(text: &str) -> Result<PathBuf, String> {
    let absolute = text.strip_prefix("file://").is_some_and(|rest| rest.starts_with('/'));
    let url = Url::parse(text).ok().filter(|url| absolute && url.query().is_none() && url.fragment().is_none());
    url.and_then(|url| url.to_file_path().ok()).ok_or_else(|| "not of the form file:///absolute/path".to_owned())
}

/// The own bucket, and what is done for a push before it is answered, where no repository says it.
pub(super) fn read(mut section: Section<'_, '_, '_>, data_dir: &Path, regions: Regions<'_>) -> (Bucket, Acknowledge) {
    let place = section.optional("url").unwrap_or_else(|| BucketPlace::File(data_dir.join("bucket")));
    let ca_file = section.optional_file("ca_file");
    require_pem(&section, "ca_file", ca_file.as_ref(), "CERTIFICATE-----");
    let request_timeout = section.bounded("request_timeout", seconds(5), MILLISECONDS_100..=seconds(5 * MINUTE));
    let part_size = section.bounded("part_size", PART_SIZE, mebibytes(5)..=mebibytes(256));
    let options = read_options(&mut section);
    if !options.is_empty() && matches!(place, BucketPlace::File(_) | BucketPlace::Memory) {
        section.fault("options", format!("{place} takes no options"));
    }
    let acknowledge = section.or("acknowledge", Acknowledge::Store);
    regions.check_acknowledge(&section, acknowledge);
    section.finish();
    (Bucket { place, options, ca_file: ca_file.map(|file| file.path), request_timeout, part_size }, acknowledge)
}

/// Another region's store, which is only read.
pub(super) fn read_foreign(mut section: Section<'_, '_, '_>) -> Option<Bucket> {
    let place: Option<BucketPlace> = section.required("url");
    if place == Some(BucketPlace::Memory) {
        section.fault("url", "memory:// is this process's own: another region's store cannot be there");
    }
    let ca_file = section.optional_file("ca_file");
    require_pem(&section, "ca_file", ca_file.as_ref(), "CERTIFICATE-----");
    let request_timeout = section.bounded("request_timeout", seconds(5), MILLISECONDS_100..=seconds(5 * MINUTE));
    let options = read_options(&mut section);
    if let Some(place @ BucketPlace::File(_)) = place.as_ref().filter(|_| !options.is_empty()) {
        section.fault("options", format!("{place} takes no options"));
    }
    section.finish();
    Some(Bucket { place: place?, options, ca_file: ca_file.map(|file| file.path), request_timeout, part_size: PART_SIZE })
}

/// How the names of options end whose values do not belong into a configuration.
const SECRET_ENDINGS: &[&str] = &[
    "secret",
    "secret_access_key",
    "access_key",
    "account_key",
    "master_key",
    "sas_key",
    "token",
    "service_account_key",
    "encryption_key",
    "customer_key_base64",
    "password",
];

fn read_options(section: &mut Section<'_, '_, '_>) -> BTreeMap<String, Secret> {
    let mut options = BTreeMap::new();
    for (name, value) in section.entries::<String>("options") {
        if SECRET_ENDINGS.iter().any(|ending| name.to_ascii_lowercase().ends_with(ending)) {
            section.fault(
                "options",
                format!("the value of {name:?} does not stand in the configuration: use options_from_files or options_from_env"),
            );
        }
        options.insert(name, Secret::new(value));
    }
    for (name, path) in section.entries::<PathBuf>("options_from_files") {
        let secret = section.open("options_from_files", &path).and_then(|file| secret_of_file(section, "options_from_files", &file));
        add(section, "options_from_files", &mut options, name, secret);
    }
    for (name, variable) in section.entries::<String>("options_from_env") {
        let secret = secret_of_variable(section, "options_from_env", &variable);
        add(section, "options_from_env", &mut options, name, secret);
    }
    options
}

fn add(section: &Section<'_, '_, '_>, key: &'static str, options: &mut BTreeMap<String, Secret>, name: String, secret: Option<Secret>) {
    if options.contains_key(&name) {
        section.fault(key, format!("{name:?} is given twice"));
    }
    if let Some(secret) = secret {
        options.insert(name, secret);
    }
}
