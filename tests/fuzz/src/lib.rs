//! Fuzz targets: one for each parser of bytes that come from outside. `make fuzz` runs them; docs/testing.md says how.
//!
//! A target answers whether the bytes were accepted, and panics when a property does not hold: what was read is written
//! again as it stood there, what `authenticate` accepts is what the hardware made.

mod documents;
pub mod evidence;
mod images;
pub mod seeds;

/// Reads bytes; whether they are accepted.
pub type Target = fn(&[u8]) -> bool;

/// Name and function of each target. Seeds are in a folder of the same name.
pub const TARGETS: &[(&str, Target)] = &[
    // What the hardware or its host hands out.
    ("snp-report", evidence::snp_report),
    ("snp-certificate-table", evidence::snp_certificate_table),
    ("snp-evidence", evidence::snp_evidence),
    ("tdx-quote", evidence::tdx_quote),
    ("tdx-endorsements", evidence::tdx_endorsements),
    ("tdx-pem-chain", verifier::fuzzing::pem_chain),
    ("tdx-documents", evidence::tdx_documents),
    ("tdx-event-log", evidence::tdx_event_log),
    ("tdx-evidence", evidence::tdx_evidence),
    ("se-exchange", evidence::se_exchange),
    ("se-request", evidence::se_request),
    ("se-image-header", evidence::se_image_header),
    ("se-evidence", evidence::se_evidence),
    ("se-endorsements", evidence::se_endorsements),
    ("azure-evidence", evidence::azure_evidence),
    ("azure-event-log", evidence::azure_event_log),
    ("azure-hcl-report", verifier::fuzzing::azure_hcl_report),
    ("azure-tpm-quote", verifier::fuzzing::azure_quote),
    ("certificate", verifier::fuzzing::certificate),
    ("crl", verifier::fuzzing::crl),
    ("rfc3161-timestamp", verifier::fuzzing::rfc3161_timestamp),
    ("own-report", enclave_keys::fuzzing::own_report),
    ("wanted-endorsements", evidence::wanted_endorsements),
    ("project-certificates", evidence::project_certificates),
    // Documents of our own forms.
    ("evidence-collection", documents::evidence_collection),
    ("leaf", documents::leaf),
    ("instance", documents::instance),
    ("request", documents::request),
    ("project", documents::project),
    ("statement", documents::statement),
    ("materials", documents::materials),
    ("attestation-result", documents::attestation_result),
    ("reference-values", documents::reference_values),
    ("policy", documents::policy),
    ("directory", documents::directory),
    ("ignore-file", documents::ignore_file),
    ("timestamp", documents::timestamp),
    ("dsse", documents::dsse),
    ("public-key", verifier::fuzzing::public_key),
    ("key-process-frames", enclave_keys::fuzzing::key_process_frames),
    ("sealed-epoch", enclave_keys::fuzzing::sealed_epoch),
    // What registries hold.
    ("sigstore-bundle", images::sigstore_bundle),
    ("simple-signing", images::simple_signing),
    ("oci-manifest", verifier::fuzzing::oci_manifest),
    ("image", images::image),
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
