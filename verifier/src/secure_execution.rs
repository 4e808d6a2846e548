//! IBM Secure Execution: not appraised yet. Evidence of this platform is refused with that reason, never accepted
//! unseen. Its attestation convinces only the one who made the request, so it will be a kind of Evidence of its own.

use provenance::evidence::{Evidence, Platform};

use crate::evidence::AuthenticationError;

/// Refuses all Secure Execution Evidence.
pub(crate) fn authenticate<T>(_evidence: &Evidence) -> Result<T, AuthenticationError> {
    Err(AuthenticationError::NotYetAppraised { platform: Platform::SecureExecution })
}
