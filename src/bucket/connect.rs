//! Makes the client of the store that the configuration names. Nothing is asked of the store here.

use std::path::Path as FilePath;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{BackoffConfig, Certificate, ClientConfigKey, ClientOptions, ObjectStore, RetryConfig};

use super::error::OpenError;
use super::local::Folder;
use super::wire::{Sending, Wire};
use crate::clock::Clock;
use crate::config::{self, BucketPlace};
use crate::metrics::Metrics;

/// How often the client sends a request again that the server refused for the moment.
const MAX_RETRIES: usize = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long the client waits for a connection, if the whole request may wait longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Whether the settings make a client, as far as that can be told without the store.
///
/// # Errors
/// Unknown options, values that the client does not take, certificates that are none.
pub fn check(settings: &config::Bucket) -> Result<(), OpenError> {
    match settings.place {
        // Opening it would create it.
        BucketPlace::File(_) | BucketPlace::Memory => Ok(()),
        _ => client(settings).map(|_| ()),
    }
}

/// A client of the store of another region: nothing is created, not even the folder, and its requests are counted as that region's.
pub(super) fn connect_abroad(settings: &config::Bucket, region: &str, clock: Clock, metrics: Metrics) -> Result<Wire, OpenError> {
    if let BucketPlace::File(folder) = &settings.place
        && !folder.try_exists().map_err(|error| OpenError::Settings(format!("{}: {error}", folder.display())))?
    {
        return Err(OpenError::NotYet(format!("{} does not exist", folder.display())));
    }
    Ok(Wire { abroad: Some(region.into()), ..connect(settings, clock, metrics)? })
}

pub(super) fn connect(settings: &config::Bucket, clock: Clock, metrics: Metrics) -> Result<Wire, OpenError> {
    let (store, sending) = client(settings)?;
    let prefix = match &settings.place {
        BucketPlace::File(_) | BucketPlace::Memory => "",
        BucketPlace::S3 { prefix, .. } | BucketPlace::Azure { prefix, .. } | BucketPlace::Google { prefix, .. } => prefix,
    };
    Ok(Wire {
        store,
        sending,
        prefix: prefix.to_owned(),
        request_timeout: settings.request_timeout,
        part_bytes: usize::try_from(settings.part_size.0).unwrap_or(usize::MAX),
        clock,
        random: Arc::new(Mutex::new(fastrand::Rng::new())),
        metrics,
        abroad: None,
    })
}

type Client = (Arc<dyn ObjectStore>, Sending);

fn client(settings: &config::Bucket) -> Result<Client, OpenError> {
    let options = client_options(settings)?;
    let retry = RetryConfig {
        backoff: BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, base: 2.0 },
        max_retries: MAX_RETRIES,
        retry_timeout: settings.request_timeout / 2,
    };
    match &settings.place {
        BucketPlace::File(folder) => local(folder),
        BucketPlace::Memory => Ok(of_parts(InMemory::new())),
        BucketPlace::S3 { bucket, .. } => {
            // One object is deleted at a time, for which not every compatible store has the bulk request.
            let builder = AmazonS3Builder::from_env().with_client_options(options).with_disable_bulk_delete(true);
            let builder = configure(builder, settings, AmazonS3Builder::with_config, |key| {
                matches!(key, AmazonS3ConfigKey::Bucket | AmazonS3ConfigKey::Client(ClientConfigKey::Timeout))
            })?;
            built(builder.with_retry(retry).with_bucket_name(bucket).build())
        }
        BucketPlace::Azure { container, .. } => {
            let builder = MicrosoftAzureBuilder::from_env().with_client_options(options);
            let builder = configure(builder, settings, MicrosoftAzureBuilder::with_config, |key| {
                matches!(key, AzureConfigKey::ContainerName | AzureConfigKey::Client(ClientConfigKey::Timeout))
            })?;
            built(builder.with_retry(retry).with_container_name(container).build())
        }
        BucketPlace::Google { bucket, .. } => {
            // Plain HTTP is the client's own default here: only a base URL of the operator's leads to it.
            let builder = GoogleCloudStorageBuilder::from_env().with_client_options(options.with_allow_http(true));
            let builder = configure(builder, settings, GoogleCloudStorageBuilder::with_config, |key| {
                matches!(key, GoogleConfigKey::Bucket | GoogleConfigKey::Client(ClientConfigKey::Timeout))
            })?;
            built(builder.with_retry(retry).with_bucket_name(bucket).build())
        }
    }
}

fn local(folder: &FilePath) -> Result<Client, OpenError> {
    let words = |error: String| OpenError::Settings(format!("{}: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(|error| words(error.to_string()))?;
    let store = LocalFileSystem::new_with_prefix(folder).map_err(|error| words(error.to_string()))?.with_fsync(true);
    let root = store.path_to_filesystem(&Path::from("x")).map_err(|error| words(error.to_string()))?;
    let root = Folder::open(root.parent().unwrap_or(folder).to_owned()).map_err(|error| words(error.to_string()))?;
    Ok((Arc::new(store), Sending::Files(root)))
}

fn of_parts<S: ObjectStore + MultipartStore>(store: S) -> Client {
    let store = Arc::new(store);
    (store.clone(), Sending::Parts(store))
}

fn built<S: ObjectStore + MultipartStore>(store: object_store::Result<S>) -> Result<Client, OpenError> {
    store.map(of_parts).map_err(|error| OpenError::Settings(error.to_string()))
}

/// Time limits are the wire's: the client would count them over whole bodies, of whatever size.
fn client_options(settings: &config::Bucket) -> Result<ClientOptions, OpenError> {
    let mut options = ClientOptions::new()
        .with_timeout_disabled()
        .with_read_timeout_disabled()
        .with_connect_timeout(CONNECT_TIMEOUT.min(settings.request_timeout));
    if let Some(path) = &settings.ca_file {
        let words = |error: String| OpenError::Settings(format!("ca_file {}: {error}", path.display()));
        let pem = std::fs::read(path).map_err(|error| words(error.to_string()))?;
        for certificate in Certificate::from_pem_bundle(&pem).map_err(|error| words(error.to_string()))? {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

/// Passes the options on. `reserved` are those that other keys of `[bucket]` set.
fn configure<B, K: std::str::FromStr>(
    mut builder: B,
    settings: &config::Bucket,
    with: impl Fn(B, K, String) -> B,
    reserved: impl Fn(&K) -> bool,
) -> Result<B, OpenError> {
    for (name, value) in &settings.options {
        let Ok(key) = name.to_ascii_lowercase().parse::<K>() else {
            return Err(OpenError::Settings(format!("{} has no option {name:?}", settings.place)));
        };
        if reserved(&key) {
            return Err(OpenError::Settings(format!("the option {name:?} is set by url or request_timeout")));
        }
        builder = with(builder, key, value.expose().to_owned());
    }
    Ok(builder)
}
