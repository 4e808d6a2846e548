//! Intel TDX: not appraised yet. Evidence of this platform is refused with that reason, never accepted unseen.

use provenance::evidence::{Evidence, Platform};

use crate::evidence::AuthenticationError;

/// Refuses every TDX quote.
pub(crate) fn authenticate<T>(_evidence: &Evidence) -> Result<T, AuthenticationError> {
    Err(AuthenticationError::NotYetAppraised { platform: Platform::Tdx })
}
