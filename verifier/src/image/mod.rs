//! Verifying an image: the whole chain in its order, over bytes that somebody else fetched.

mod blobs;
mod oci;
mod signatures;

use std::collections::BTreeMap;

use provenance::digest::Sha256Digest;
use provenance::dsse::Envelope;
use provenance::evidence::EvidenceBundle;
use provenance::materials::Completeness;
use provenance::request::Source;
use provenance::sigstore::{KeyedBundle, MAX_BUNDLE, parse_bundle};
use provenance::timestamp::Timestamp;

pub use self::blobs::{Blob, BlobChecks, BlobError, BlobHasher, CheckedBlob, TrustedImage};
pub use self::oci::MAX_MANIFEST;
use self::oci::{Descriptor, Manifest};
pub use self::signatures::SimpleSignature;
use crate::attached::{HashedEnvelope, MAX_SIGNATURE, Work};
use crate::bound;
use crate::built::{self, BoundStatement, Coverage, RequestedStatement};
use crate::evidence;
use crate::links::{accept_guest, accept_hardware, accept_rules};
use crate::policy::Policy;
use crate::rejection::{Reason, Rejection};
use crate::secure_execution::OwnRequest;
use crate::snp::Endorsements;
use crate::time::{self, SigningTime};
use crate::verdict::{Link, Outcome, Report};

/// Most Evidence collections, statements or signatures of an image that are looked at.
pub const MAX_ATTACHED: usize = 256;
/// Most manifests below an index.
pub const MAX_CHILDREN: usize = 64;
/// Most blobs of an image.
pub const MAX_BLOBS: usize = 4096;

/// Everything about an image that was fetched, unverified. The target is fixed once, before anything is fetched.
#[derive(Debug, Clone)]
pub struct ImageInput {
    /// Digest of the manifest or index to judge.
    pub target: Sha256Digest,
    /// Repository (`registry/name`, no tag) that the image was asked for by; `None` for an unnamed layout.
    pub repository: Option<String>,
    /// Bytes of manifests: the target, and for an index each manifest that it names. Small blobs such as
    /// configurations may be here too and are then checked at once.
    pub documents: Vec<Vec<u8>>,
    /// Evidence collections (CMW, JSON) attached to the image. Each is judged whole; nothing is mixed.
    pub evidence: Vec<Vec<u8>>,
    /// Sigstore bundles and DSSE envelopes attached to the image: provenance and cosign signatures, in any order.
    /// Those of other tools are passed over.
    pub envelopes: Vec<Vec<u8>>,
    /// Simple signing payloads with their signatures, from the `.sig` image.
    pub simple_signatures: Vec<SimpleSignature>,
    /// Endorsements beside those in the Evidence.
    pub endorsements: Endorsements,
    /// SHA-256 of the request that must have been answered, when this client made it.
    pub expected_request: Option<Sha256Digest>,
}

/// Why an image is not what an accepted statement names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageRefusal {
    /// The statement is about other images.
    #[error("image is {got}, the statement names {}", bound::join(.wanted))]
    Subject {
        /// Digest of the image.
        got: Sha256Digest,
        /// Digests that the statement names.
        wanted: Vec<Sha256Digest>,
    },
    /// The statement names something that the caller did not ask for.
    #[error("statement names a subject `{got}`, the caller signed a request for {}", .wanted.join(", "))]
    NotRequested {
        /// Name of the subject.
        got: String,
        /// Repositories of the names in the signed request.
        wanted: Vec<String>,
    },
    /// The statement names the image in other repositories.
    #[error("image was asked for as `{got}`, it was built for {}", .wanted.join(", "))]
    Repository {
        /// Repository asked for.
        got: String,
        /// Repositories in the statement.
        wanted: Vec<String>,
    },
    /// A manifest is not at hand.
    #[error("manifest {digest} is not at hand")]
    ManifestMissing {
        /// Digest of the manifest.
        digest: Sha256Digest,
    },
    /// A manifest is malformed.
    #[error("manifest {digest} {problem}")]
    Manifest {
        /// Digest of the manifest.
        digest: Sha256Digest,
        /// What is wrong.
        problem: String,
    },
    /// A document has another size than its descriptor says.
    #[error("{digest} has {got} bytes, its descriptor says {wanted}")]
    Size {
        /// Its digest.
        digest: Sha256Digest,
        /// Bytes at hand.
        got: u64,
        /// Size in the descriptor.
        wanted: u64,
    },
    /// An index inside an index.
    #[error("index names another index {digest}; only image manifests may stand there")]
    NestedIndex {
        /// Digest of the inner index.
        digest: Sha256Digest,
    },
    /// No signature over the image by the key that the report covers.
    #[error(
        "none of the {looked_at} signatures attached to the image is of key {key}, which the report covers"
    )]
    NoSignature {
        /// SHA-256 of the SPKI of the key.
        key: Sha256Digest,
        /// Signatures looked at.
        looked_at: usize,
    },
}

/// What was found about an image: a report, and when only blobs are left, the checks to feed them to.
#[derive(Debug)]
pub struct Verdict {
    report: Report,
    blobs: Option<Vec<Blob>>,
}

impl Verdict {
    /// The report so far. It says `trusted` only after [`BlobChecks::finish`].
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The blobs to check; the report when the image is refused already.
    pub fn into_blob_checks(self) -> Result<BlobChecks, Box<Report>> {
        match self.blobs {
            Some(blobs) => Ok(BlobChecks::new(blobs, self.report)),
            None => Err(Box::new(self.report)),
        }
    }
}

/// Verifies an image under a policy, with certificates judged as of `now`.
///
/// Several Evidence collections may be attached (a reproducible image built twice); each is judged as a whole with
/// the statement that it names. The first that holds decides, otherwise the one that came furthest is reported.
#[must_use]
pub fn verify_image(policy: &Policy, input: &ImageInput, now: Timestamp) -> Verdict {
    verify_image_with_own_requests(policy, input, &[], now)
}

/// The same for the one who made attestation requests of Secure Execution: an answer to one of them needs no Verifier.
#[must_use]
pub fn verify_image_with_own_requests(
    policy: &Policy,
    input: &ImageInput,
    own_requests: &[OwnRequest],
    now: Timestamp,
) -> Verdict {
    let fresh = || Report::new(policy, input.target, input.repository.clone(), now);
    let refuse = |report: Report, reason: Reason| report.refused(&Rejection::new(reason, policy));
    let refused = |report| Verdict { report, blobs: None };
    for (what, got) in [
        ("Evidence collections", input.evidence.len()),
        ("statements", input.envelopes.len()),
        ("signatures", input.simple_signatures.len()),
    ] {
        if got > MAX_ATTACHED {
            return refused(refuse(fresh(), Reason::TooMany { what, got, limit: MAX_ATTACHED }));
        }
    }
    let documents: BTreeMap<_, _> =
        input.documents.iter().map(|bytes| (Sha256Digest::of(bytes), bytes.as_slice())).collect();
    let envelopes: Vec<_> = input.envelopes.iter().filter_map(|bytes| Attached::parse(bytes)).collect();
    let work = Work::default();
    let mut furthest: Option<Report> = None;
    for collection in &input.evidence {
        let mut report = fresh();
        let collection = Collection { bytes: collection, own_requests };
        match judge(policy, input, collection, (&envelopes, &work), &documents, now, &mut report) {
            Ok(blobs) => {
                return Verdict { report: report.with_outcome(Outcome::BlobsNotChecked), blobs: Some(blobs) };
            }
            Err(reason) => {
                let report = refuse(report, reason);
                if furthest.as_ref().is_none_or(|best| best.accepted_links() < report.accepted_links()) {
                    furthest = Some(report);
                }
                if work.is_spent() {
                    return refused(refuse(fresh(), Reason::TooMuchWork));
                }
            }
        }
    }
    refused(furthest.unwrap_or_else(|| refuse(fresh(), Reason::NoEvidence { target: input.target })))
}

/// An envelope beside the image, and the key that it is said to be of.
struct Attached {
    envelope: HashedEnvelope,
    key: Option<Sha256Digest>,
}

impl Attached {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (envelope, key) = match parse_bundle(bytes) {
            Ok(KeyedBundle { envelope, key }) => (envelope, Some(key)),
            Err(_) => (Envelope::parse(bytes, MAX_BUNDLE).ok()?, None),
        };
        (envelope.signature.len() <= MAX_SIGNATURE).then(|| Self { envelope: envelope.into(), key })
    }
}

/// One Evidence collection, and the own requests that it may answer.
#[derive(Clone, Copy)]
struct Collection<'a> {
    bytes: &'a [u8],
    own_requests: &'a [OwnRequest],
}

/// The chain, in its order. Each step consumes what the one before made.
fn judge(
    policy: &Policy,
    input: &ImageInput,
    collection: Collection<'_>,
    (attached, work): (&[Attached], &Work),
    documents: &BTreeMap<Sha256Digest, &[u8]>,
    now: Timestamp,
    report: &mut Report,
) -> Result<Vec<Blob>, Reason> {
    let bundle = EvidenceBundle::parse(collection.bytes)?;
    // What names another key is somebody else's business.
    let key = bundle.signing_key.as_deref().map(Sha256Digest::of);
    let envelopes: Vec<&HashedEnvelope> = attached
        .iter()
        .filter(|attached| attached.key.is_none() || attached.key == key)
        .map(|attached| &attached.envelope)
        .collect();
    let envelopes = envelopes.as_slice();
    let examined = time::examine(&bundle, envelopes, policy, now)?;
    report.facts_mut().judged_as_of = examined.judged_as_of();
    let authentic = examined.authenticate(&input.endorsements, collection.own_requests, policy.anchors())?;

    let hardware = evidence::appraise_hardware(authentic, policy)?;
    accept_hardware(report, &hardware, examined.line(policy.file()));

    let result = hardware.appraise_guest(policy)?;
    accept_guest(report, &result, policy);

    let bound = bound::bind(result, &bundle)?;
    let statement = built::bind_statement(bound, &bundle, (envelopes, work), input.target, policy)?;
    let signing_time = examined.signing_time(&statement)?;
    accept_key(report, &statement, signing_time);

    let requested = built::appraise_request(statement, &bundle, policy, input.expected_request)?;
    accept_request(report, &requested, policy);

    let statement = requested.bound_statement();
    built::appraise_materials(statement.statement(), policy)?;
    accept_materials(report, statement, policy);

    bound::appraise_rules(statement.bound().instance(), policy)?;
    accept_rules(report, statement.bound(), policy);

    let blobs = check_manifests(input, &requested, documents)?;
    let signatures = signatures::check(input, (envelopes, work), statement.signing_key())?;
    accept_image(report, &blobs, &signatures);
    Ok(blobs.into_iter().filter(|blob| !documents.contains_key(&blob.digest)).collect())
}

fn accept_key(report: &mut Report, statement: &BoundStatement, signing_time: SigningTime) {
    let instance = statement.bound().instance();
    let key = statement.signing_key().spki_sha256();
    let lines = vec![
        format!("{} held by this guest when it signed; report names it", key.short()),
        format!("epoch {}: {}", instance.epoch, instance.key_origin.explanation()),
        match statement.coverage() {
            Coverage::Build { .. } => {
                format!("report covers statement {}", statement.statement_sha256().short())
            }
            Coverage::Key { .. } => format!(
                "bound to the key, not to this build: nothing but that key vouches for statement {}",
                statement.statement_sha256().short()
            ),
        },
    ];
    report.accept(Link::Key, lines);
    let facts = report.facts_mut();
    facts.bound_to = Some(statement.coverage().name());
    facts.signing_key = Some(key);
    facts.statement = Some(statement.statement_sha256());
    facts.signing_time = Some(signing_time);
}

fn accept_request(report: &mut Report, requested: &RequestedStatement, policy: &Policy) {
    let signed = requested.request();
    let request = signed.request();
    let who = match requested.caller() {
        Some(caller) => format!(
            "caller \"{}\" ({}, {} line {})",
            caller.name,
            signed.caller().short(),
            policy.file(),
            caller.line
        ),
        None => format!("member {} of the project", signed.caller().short()),
    };
    let context = match &request.context {
        Source::Tree { root } => format!("context {}", root.short()),
        Source::Git { url } => format!("context {url}"),
        Source::Image { reference } => format!("context {reference}"),
        Source::OciLayout { manifest, .. } => format!("context {}", manifest.short()),
    };
    report
        .accept(Link::Request, vec![format!("signed by {who}, project {}, {context}", request.project.name)]);
    let facts = report.facts_mut();
    facts.caller = Some(signed.caller());
    facts.caller_name = requested.caller().map(|caller| caller.name.clone());
    facts.request = Some(signed.request_sha256());
    facts.project = Some(request.project.id().to_string());
    facts.project_name = Some(request.project.name.clone());
}

fn accept_materials(report: &mut Report, statement: &BoundStatement, policy: &Policy) {
    let definition = &statement.statement().predicate.build_definition;
    let count = definition.resolved_dependencies.len();
    let completeness = &definition.internal_parameters.completeness;
    let incomplete: Vec<_> =
        completeness.iter().filter(|(_, stated)| matches!(stated, Completeness::Incomplete { .. })).collect();
    let mut lines = vec![match incomplete.len() {
        0 => format!("{count}, every class complete"),
        some => {
            format!("{count}, {some} of {} classes incomplete, accepted by the policy:", completeness.len())
        }
    }];
    for (class, stated) in incomplete {
        let line = policy.materials().get(class).map_or(0, |requirement| requirement.line);
        lines.push(format!("{}: {} ({} line {line})", class.name(), built::describe(stated), policy.file()));
    }
    report.accept(Link::Materials, lines);
    report.facts_mut().materials = Some(count);
}

fn accept_image(report: &mut Report, blobs: &[Blob], signatures: &str) {
    let configs = blobs.iter().filter(|blob| blob.is_config).count();
    let layers = blobs.len() - configs;
    let plural = |count: usize, word: &str| {
        if count == 1 { format!("{count} {word}") } else { format!("{count} {word}s") }
    };
    let line = format!(
        "manifest, {} and {} match the statement",
        plural(configs, "config"),
        plural(layers, "layer")
    );
    report.accept(Link::Image, vec![line, signatures.to_owned()]);
    report.set_blobs(blobs.to_vec());
}

/// Checks target, repository and manifests against the statement's subjects, these against the names that the caller
/// signed, and lists the blobs.
fn check_manifests(
    input: &ImageInput,
    requested: &RequestedStatement,
    documents: &BTreeMap<Sha256Digest, &[u8]>,
) -> Result<Vec<Blob>, ImageRefusal> {
    let statement = requested.bound_statement().statement();
    let subjects = statement.subject_digests();
    let check_subject = |got: Sha256Digest| {
        if subjects.contains(&got) {
            Ok(())
        } else {
            Err(ImageRefusal::Subject { got, wanted: subjects.clone() })
        }
    };
    check_subject(input.target)?;
    let wanted = requested.request().request().output.repositories();
    if let Some(subject) = statement.subject.iter().find(|it| !wanted.contains(&it.name.as_str())) {
        let wanted = wanted.into_iter().map(str::to_owned).collect();
        return Err(ImageRefusal::NotRequested { got: subject.name.clone(), wanted });
    }
    if let Some(got) = &input.repository {
        let target = input.target.hex();
        let named = statement.subject.iter().filter(|subject| subject.digest.sha256 == target);
        let wanted: Vec<_> = named.map(|subject| subject.name.clone()).collect();
        if !wanted.contains(got) {
            return Err(ImageRefusal::Repository { got: got.clone(), wanted });
        }
    }
    let read = |digest: Sha256Digest| {
        let bytes = documents.get(&digest).ok_or(ImageRefusal::ManifestMissing { digest })?;
        Manifest::parse(bytes).map_err(|problem| ImageRefusal::Manifest { digest, problem })
    };
    let images = match read(input.target)? {
        Manifest::Index { manifests } => {
            if manifests.is_empty() || manifests.len() > MAX_CHILDREN {
                let problem = format!("names {} manifests, wanted 1 to {MAX_CHILDREN}", manifests.len());
                return Err(ImageRefusal::Manifest { digest: input.target, problem });
            }
            let mut images = Vec::new();
            for child in manifests {
                check_subject(child.digest)?;
                check_size(&child, documents)?;
                match read(child.digest)? {
                    Manifest::Image { config, layers } => images.push((config, layers)),
                    Manifest::Index { .. } => return Err(ImageRefusal::NestedIndex { digest: child.digest }),
                }
            }
            images
        }
        Manifest::Image { config, layers } => vec![(config, layers)],
    };
    let mut blobs: BTreeMap<Sha256Digest, Blob> = BTreeMap::new();
    let descriptors = images.into_iter().flat_map(|(config, layers)| {
        std::iter::once((config, true)).chain(layers.into_iter().map(|layer| (layer, false)))
    });
    for (descriptor, is_config) in descriptors {
        check_size(&descriptor, documents)?;
        let Descriptor { media_type, digest, size } = descriptor;
        let blob = blobs.entry(digest).or_insert(Blob { digest, size, media_type, is_config });
        if blob.size != size {
            return Err(ImageRefusal::Size { digest, got: size, wanted: blob.size });
        }
        if blobs.len() > MAX_BLOBS {
            let problem = format!("names more than {MAX_BLOBS} blobs");
            return Err(ImageRefusal::Manifest { digest: input.target, problem });
        }
    }
    Ok(blobs.into_values().collect())
}

/// Compares a descriptor's size with the bytes, if they are at hand.
fn check_size(
    descriptor: &Descriptor,
    documents: &BTreeMap<Sha256Digest, &[u8]>,
) -> Result<(), ImageRefusal> {
    match documents.get(&descriptor.digest).map(|bytes| bytes.len() as u64) {
        Some(got) if got != descriptor.size => {
            Err(ImageRefusal::Size { digest: descriptor.digest, got, wanted: descriptor.size })
        }
        _ => Ok(()),
    }
}

/// Whether bytes are an image manifest or an index. For [`crate::fuzzing`].
#[cfg(any(test, fuzzing))]
pub(crate) fn manifest_is_read(bytes: &[u8]) -> bool {
    Manifest::parse(bytes).is_ok()
}
