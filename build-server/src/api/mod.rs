//! The gRPC API (`sealwright.v1`): connections, callers, resource names, the three services, and errors.

pub mod access;
mod agents;
pub mod attestation;
pub mod builds;
pub mod connection;
pub mod contexts;
mod download;
pub mod errors;
pub mod names;
mod strangers;
pub mod tls;

use errors::ApiError;

/// Runs blocking work (disk, database, key service) off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::Internal(error.to_string()))?
}
