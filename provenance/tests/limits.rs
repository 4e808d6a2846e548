//! Everything that comes from outside has a longest length: at it it is looked at, beyond it not.

use provenance::azure::{AzureEvidence, InvalidAzureEvidence, MAX_AZURE_EVIDENCE};
use provenance::canonical::CanonicalError;
use provenance::challenge::{AttestationRequest, InvalidAttestationRequest, MAX_ATTESTATION_REQUEST};
use provenance::dsse::{DsseError, Envelope};
use provenance::evidence::{EvidenceBundle, EvidenceError, MAX_COLLECTION};
use provenance::instance::{InstanceDocument, InvalidInstance, MAX_INSTANCE};
use provenance::secure_execution::{
    InvalidSeBytes, MAX_SE_BYTES, SecureExecutionEndorsements, SecureExecutionEvidence,
};
use provenance::sigstore::{BundleError, MAX_BUNDLE, parse_bundle};
use provenance::tdx_endorsements::{InvalidTdxEndorsements, MAX_TDX_ENDORSEMENTS, TdxEndorsements};

/// What `parse` says of `limit` bytes, and of one more.
fn around<T>(limit: usize, parse: impl Fn(&[u8]) -> T) -> (T, T) {
    let bytes = vec![b'x'; limit + 1];
    (parse(&bytes[..limit]), parse(&bytes))
}

macro_rules! limited {
    ($limit:expr, $parse:expr, $too_large:pat) => {{
        let (longest, longer) = around($limit, |bytes| $parse(bytes).map(|_| ()));
        assert!(!matches!(longest, Err($too_large)), "{longest:?}");
        assert!(longest.is_err(), "x is never right");
        assert!(matches!(longer, Err($too_large)), "{longer:?}");
    }};
}

#[test]
fn what_is_longer_than_any_is_not_looked_at() {
    limited!(MAX_AZURE_EVIDENCE, AzureEvidence::parse, InvalidAzureEvidence::TooLarge { .. });
    limited!(MAX_TDX_ENDORSEMENTS, TdxEndorsements::parse, InvalidTdxEndorsements::TooLarge { .. });
    limited!(MAX_SE_BYTES, SecureExecutionEvidence::parse, InvalidSeBytes::TooLarge { .. });
    limited!(MAX_SE_BYTES, SecureExecutionEndorsements::parse, InvalidSeBytes::TooLarge { .. });
    limited!(MAX_ATTESTATION_REQUEST, AttestationRequest::parse, InvalidAttestationRequest::TooLong { .. });
    limited!(100, |bytes| Envelope::parse(bytes, 100), DsseError::TooLarge { .. });
    limited!(MAX_BUNDLE, parse_bundle, BundleError::Dsse(DsseError::TooLarge { limit: MAX_BUNDLE, .. }));
    limited!(
        MAX_INSTANCE,
        InstanceDocument::parse,
        InvalidInstance::Canonical(CanonicalError::TooLarge { limit: MAX_INSTANCE, .. })
    );
    limited!(
        MAX_COLLECTION,
        EvidenceBundle::parse,
        EvidenceError::Canonical(CanonicalError::TooLarge { limit: MAX_COLLECTION, .. })
    );
}
