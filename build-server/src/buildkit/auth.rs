//! Registry logins and build secrets, served from memory to this build's session only.

use std::sync::Arc;

use proto::buildkit::moby::buildkit::secrets;
use proto::buildkit::moby::filesync::v1 as filesync;
use tonic::{Request, Response, Status};

use crate::secrets::{RegistryCredentials, SecretValues};

pub(super) struct AuthService(pub(super) Arc<RegistryCredentials>);

#[tonic::async_trait]
impl filesync::auth_server::Auth for AuthService {
    /// The login for exactly this host; without one an empty answer, which BuildKit takes for anonymous.
    async fn credentials(
        &self,
        request: Request<filesync::CredentialsRequest>,
    ) -> Result<Response<filesync::CredentialsResponse>, Status> {
        let host = request.into_inner().host;
        let mut response = filesync::CredentialsResponse::default();
        if let Some(login) = self.0.for_host(&host) {
            if login.identity_token.is_empty() {
                response.username.clone_from(&login.username);
                response.secret.clone_from(&login.password);
            } else {
                response.secret.clone_from(&login.identity_token);
            }
        }
        Ok(Response::new(response))
    }

    // BuildKit falls back to Credentials, and fetches tokens itself.
    async fn fetch_token(
        &self,
        _: Request<filesync::FetchTokenRequest>,
    ) -> Result<Response<filesync::FetchTokenResponse>, Status> {
        Err(Status::unimplemented("tokens are fetched by BuildKit"))
    }

    async fn get_token_authority(
        &self,
        _: Request<filesync::GetTokenAuthorityRequest>,
    ) -> Result<Response<filesync::GetTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("tokens are fetched by BuildKit"))
    }

    async fn verify_token_authority(
        &self,
        _: Request<filesync::VerifyTokenAuthorityRequest>,
    ) -> Result<Response<filesync::VerifyTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("tokens are fetched by BuildKit"))
    }
}

pub(super) struct SecretsService(pub(super) Arc<SecretValues>);

#[tonic::async_trait]
impl secrets::v1::secrets_server::Secrets for SecretsService {
    async fn get_secret(
        &self,
        request: Request<secrets::v1::GetSecretRequest>,
    ) -> Result<Response<secrets::v1::GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        let value = self.0.value(&id).ok_or_else(|| Status::not_found(format!("secret {id} not found")))?;
        Ok(Response::new(secrets::v1::GetSecretResponse { data: bytes::Bytes::copy_from_slice(value) }))
    }
}
