//! Recorded Evidence as other verifiers take it.

#[allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "the same file belongs to the tests of the workspace"
)]
#[path = "../../src/vectors/mod.rs"]
pub mod vectors;

/// The command's side of attestation requests, as it is shipped.
#[allow(clippy::allow_attributes, missing_docs, reason = "the same file belongs to the command")]
#[path = "../../../client/src/attestation_request.rs"]
pub mod attestation_request;

#[path = "../../../enclave-keys/src/secure_execution/plain_text.rs"]
mod plain_text;

/// The secret in what the key process retrieves from the store of a Secure Execution guest.
#[must_use]
pub fn retrieved_secret(retrieved: &[u8]) -> Option<&[u8]> {
    plain_text::secret(retrieved)
}

/// The machine of Secure Execution that the tests of the workspace use.
#[path = "../../src/software_tee"]
pub mod software_tee {
    mod openssl;
    pub mod se {
        pub mod fixture;
        pub mod host_keys;
        pub mod machine;
    }
}

pub mod dcap;
pub mod go;
pub mod s390;
pub mod snp;

/// What another verifier says.
pub type Verdict = Result<(), String>;
