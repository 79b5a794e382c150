//! `outport credential-provider`: the kubelet's credential provider plugin (Kubernetes' "Kubelet Credential Provider (v1)" reference). The
//! kubelet writes a `CredentialProviderRequest` to the standard input and reads a `CredentialProviderResponse`.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::login::{block_on, claims, read_token_file};
use super::web::{Reach, Registry, Web, WebError, exchange};
use crate::identity::REFRESH_USER;

const API_VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";
/// The longest request that is read.
const MAX_REQUEST_BYTES: u64 = 1024 * 1024;
/// Of a credential's life the kubelet may use so much, in percent: a pull that begins with it must also end.
const CACHED_PERCENT: u64 = 75;

/// How the kubelet is told of this program.
pub(super) const HELP: &str = r#"The kubelet runs it for images of its registries (Kubernetes 1.34 or later for service accounts' tokens). Put the binary into the
folder that the kubelet's --image-credential-provider-bin-dir names, and this into the file of --image-credential-provider-config:

  apiVersion: kubelet.config.k8s.io/v1
  kind: CredentialProviderConfig
  providers:
    - name: outport
      apiVersion: credentialprovider.kubelet.k8s.io/v1
      matchImages: ["registry.example.com"]
      defaultCacheDuration: "5m"
      args: ["credential-provider", "--registry", "registry.example.com"]
      tokenAttributes:
        serviceAccountTokenAudience: registry.example.com
        cacheType: Token
        requireServiceAccount: true

and into the configuration of the edges:

  [[oidc]]
  issuer = "https://kubernetes.default.svc"   # kubectl get --raw /.well-known/openid-configuration
  audience = "registry.example.com"
  [[role]]
  role = "AcrPull"
  principals = ["system:serviceaccount:team:app"]

Without tokens from the kubelet, name a projected one: args: ["credential-provider", "--token-file", "/var/run/outport/token"].

Example:
  echo '{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderRequest",
         "image":"registry.example.com/team/app:v1","serviceAccountToken":"ey..."}' | outport credential-provider"#;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A registry whose images get a credential; may be repeated. Without it, any that the kubelet asks for: then matchImages alone
    /// decides where tokens go
    #[arg(long, value_name = "HOST")]
    registry: Vec<String>,
    /// A file with a token of this cluster, where the kubelet sends none
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    api_version: String,
    kind: String,
    image: String,
    #[serde(default)]
    service_account_token: String,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    api_version: &'static str,
    kind: &'static str,
    cache_key_type: &'static str,
    /// As Go writes durations; `None`: as the kubelet's configuration says.
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_duration: Option<String>,
    /// By registry; `None`: there are no credentials for this image.
    auth: Option<BTreeMap<String, Auth>>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Auth {
    username: &'static str,
    password: String,
}

impl Response {
    fn new(cache_duration: Option<String>, auth: Option<BTreeMap<String, Auth>>) -> Response {
        Response { api_version: API_VERSION, kind: "CredentialProviderResponse", cache_key_type: "Registry", cache_duration, auth }
    }
}

/// Exit code 0 with a response on the standard output, else nothing there.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match block_on(provide(arguments, io::stdin())) {
        Ok(response) => println!("{}", serde_json::json!(response)),
        Err(error) => {
            eprintln!("outport credential-provider: {error}");
            return error.exit_code();
        }
    }
    ExitCode::SUCCESS
}

async fn provide(arguments: &Arguments, input: impl Read) -> Result<Response, WebError> {
    let request = read_request(input)?;
    let host = registry_of(&request.image);
    if !(arguments.registry.is_empty() || arguments.registry.iter().any(|registry| registry == host)) {
        return Ok(Response::new(None, None));
    }
    let registry = Registry::parse(host, &arguments.reach)?;
    let token = match &arguments.token_file {
        _ if !request.service_account_token.is_empty() => request.service_account_token,
        Some(path) => read_token_file(path)?,
        None => {
            return Err(WebError::Usage(
                "the request has no serviceAccountToken, and there is no --token-file: set tokenAttributes in the kubelet's configuration"
                    .to_owned(),
            ));
        }
    };
    let web = Web::new(arguments.reach.ca_file.as_deref())?;
    let password = exchange(&web, &registry, &token).await?;
    let cache_duration = life_seconds(&password).map(|seconds| format!("{}s", seconds / 100 * CACHED_PERCENT));
    let auth = Auth { username: REFRESH_USER, password };
    Ok(Response::new(cache_duration, Some([(registry.host, auth)].into())))
}

fn read_request(input: impl Read) -> Result<Request, WebError> {
    let mut text = String::new();
    input.take(MAX_REQUEST_BYTES).read_to_string(&mut text).map_err(|why| WebError::Usage(format!("the standard input: {why}")))?;
    // The parser's message could quote the token.
    let request: Request = serde_json::from_str(&text)
        .map_err(|why| WebError::Usage(format!("the standard input holds no CredentialProviderRequest: {:?} error", why.classify())))?;
    if request.api_version != API_VERSION || request.kind != "CredentialProviderRequest" {
        return Err(WebError::Usage(format!("the standard input holds no CredentialProviderRequest of {API_VERSION}")));
    }
    Ok(request)
}

/// The first component of an image's name if it can be a host, as every container engine decides it.
fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => "docker.io",
    }
}

/// How long the registry's token is good in all.
fn life_seconds(token: &str) -> Option<u64> {
    let claims = claims(token)?;
    claims["exp"].as_u64()?.checked_sub(claims["iat"].as_u64()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::testing::{Origin, reply};
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    fn arguments(registry: &[&str]) -> Arguments {
        let registry = registry.iter().map(|host| (*host).to_owned()).collect();
        Arguments { registry, token_file: None, reach: Reach { ca_file: None, plain_http: true } }
    }

    fn request(image: &str) -> Value {
        json!({
            "apiVersion": API_VERSION, "kind": "CredentialProviderRequest", "image": image, "serviceAccountToken": "cluster-token",
            "serviceAccountAnnotations": { "a": "b" },
        })
    }

    async fn provided(arguments: &Arguments, request: &Value) -> Result<Value, WebError> {
        provide(arguments, request.to_string().as_bytes()).await.map(|response| json!(response))
    }

    #[tokio::test]
    async fn a_service_accounts_token_becomes_a_credential_of_the_registry() {
        let token = format!("e30.{}.x", URL_SAFE_NO_PAD.encode(json!({ "iat": 1_000, "exp": 11_800 }).to_string()));
        let told = token.clone();
        let origin = Origin::start(move |_| reply(200, json!({ "refresh_token": told }).to_string())).await;
        let host = origin.address.to_string();
        let image = format!("{host}/team/app:v1");
        let expected = json!({
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "kind": "CredentialProviderResponse", "cacheKeyType": "Registry",
            "cacheDuration": "8100s",
            "auth": { host.clone(): { "username": "00000000-0000-0000-0000-000000000000", "password": token } },
        });
        assert_eq!(provided(&arguments(&[]), &request(&image)).await.unwrap(), expected);
        assert_eq!(provided(&arguments(&["other", &host]), &request(&image)).await.unwrap(), expected);
        let asked = &origin.seen()[0];
        assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/oauth2/exchange"));
        assert!(asked.body.contains("grant_type=access_token&") && asked.body.ends_with("&access_token=cluster-token"), "{}", asked.body);
        // A token file counts where the kubelet sends nothing.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "projected\n").unwrap();
        let with_file = Arguments { token_file: Some(file.path().to_owned()), ..arguments(&[]) };
        let mut without_token = request(&image);
        without_token.as_object_mut().unwrap().remove("serviceAccountToken");
        provided(&with_file, &without_token).await.unwrap();
        assert!(origin.seen()[2].body.ends_with("&access_token=projected"));
        assert!(matches!(provided(&arguments(&[]), &without_token).await, Err(WebError::Usage(_))));
    }

    #[tokio::test]
    async fn a_token_goes_to_no_other_registry() {
        let origin = Origin::start(|_| reply(200, "{}")).await;
        let answer = provided(&arguments(&["registry.example.com"]), &request(&format!("{}/a:1", origin.address))).await.unwrap();
        assert_eq!(answer["auth"], Value::Null);
        assert!(answer.as_object().unwrap().contains_key("auth"));
        assert!(origin.requests().is_empty());
        assert!(matches!(provided(&arguments(&[]), &request(&format!("{}/a:1", origin.address))).await, Err(WebError::Failed(_))));
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused_without_being_repeated() {
        for (name, value) in [
            ("apiVersion", json!("credentialprovider.kubelet.k8s.io/v2")),
            ("kind", json!("Other")),
            ("image", json!(1)),
            ("serviceAccountToken", json!({ "x": "secret" })),
        ] {
            let mut wrong = request("a.example/b");
            wrong[name] = value;
            let error = provided(&arguments(&[]), &wrong).await.unwrap_err();
            assert!(matches!(error, WebError::Usage(_)) && !error.to_string().contains("secret"), "{name}: {error}");
        }
        assert!(matches!(provide(&arguments(&[]), "".as_bytes()).await, Err(WebError::Usage(_))));
    }

    #[test]
    fn images_name_their_registry_as_engines_read_them() {
        for (image, host) in [
            ("registry.example.com/team/app:v1", "registry.example.com"),
            ("localhost/app", "localhost"),
            ("registry:5000/app@sha256:0", "registry:5000"),
            ("library/debian", "docker.io"),
            ("debian:12", "docker.io"),
        ] {
            assert_eq!(registry_of(image), host, "{image}");
        }
    }
}
