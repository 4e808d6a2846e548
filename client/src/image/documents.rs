//! Small documents of a registry: manifests and lists of referrers (OCI distribution-spec 1.1), each with a limit on
//! its bytes. A registry is a stranger: what it sends is never held without one.

use futures_util::StreamExt as _;
use oci_client::client::ClientProtocol;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use reqwest::StatusCode;
use reqwest::header::ACCEPT;

use super::ImageError;
use super::registry::{CONNECT_TIMEOUT, READ_TIMEOUT, USER_AGENT, with_sources};

/// Reads documents of one repository.
pub(super) struct Documents {
    http: reqwest::Client,
    /// `<scheme>://<host>/v2/<repository>`.
    base: String,
    registry: String,
    login: Login,
}

enum Login {
    Anonymous,
    Basic { username: String, password: String },
    Bearer(String),
}

impl Documents {
    /// Logs in to the repository of `reference`, as its registry wants it.
    pub(super) async fn open(
        client: &Client,
        protocol: &ClientProtocol,
        registry: &str,
        reference: &Reference,
        auth: &RegistryAuth,
    ) -> Result<Self, ImageError> {
        let failed = |problem: String| ImageError::Registry { registry: registry.to_owned(), problem };
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .user_agent(USER_AGENT)
            .build()
            .map_err(|error| failed(with_sources(&error)))?;
        let token = client.auth(reference, auth, RegistryOperation::Pull).await.map_err(|error| {
            let problem = with_sources(&error);
            match error {
                oci_client::errors::OciDistributionError::RequestError(_) => failed(problem),
                _ => ImageError::Denied {
                    registry: registry.to_owned(),
                    what: reference.repository().to_owned(),
                    problem,
                },
            }
        })?;
        let login = match (token, auth) {
            (Some(token), _) => Login::Bearer(token),
            (None, RegistryAuth::Basic(username, password)) => {
                Login::Basic { username: username.clone(), password: password.clone() }
            }
            (None, RegistryAuth::Anonymous | RegistryAuth::Bearer(_)) => Login::Anonymous,
        };
        let scheme = match protocol {
            ClientProtocol::Http => "http",
            _ => "https",
        };
        let base = format!("{scheme}://{}/v2/{}", reference.resolve_registry(), reference.repository());
        Ok(Self { http, base, registry: registry.to_owned(), login })
    }

    /// The document at `path` below the repository, of at most `limit` bytes; none when the registry does not have it.
    pub(super) async fn get(
        &self,
        path: &str,
        accept: &[&str],
        limit: u64,
    ) -> Result<Option<Vec<u8>>, ImageError> {
        let failed = |problem: String| ImageError::Registry { registry: self.registry.clone(), problem };
        let mut request = self.http.get(format!("{}/{path}", self.base)).header(ACCEPT, accept.join(", "));
        match &self.login {
            Login::Anonymous => {}
            Login::Basic { username, password } => request = request.basic_auth(username, Some(password)),
            Login::Bearer(token) => request = request.bearer_auth(token),
        }
        let answer = request.send().await.map_err(|error| failed(with_sources(&error)))?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                return Err(ImageError::Denied {
                    registry: self.registry.clone(),
                    what: path.to_owned(),
                    problem: format!("status {status}"),
                });
            }
            status => return Err(failed(format!("{path}: status {status}"))),
        }
        let mut bytes = Vec::new();
        let mut body = answer.bytes_stream();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| failed(with_sources(&error)))?;
            if (bytes.len() + piece.len()) as u64 > limit {
                let (registry, what) = (self.registry.clone(), path.to_owned());
                return Err(ImageError::TooLong { registry, what, limit });
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(Some(bytes))
    }
}
