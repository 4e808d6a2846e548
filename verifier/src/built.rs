//! The statement that a build leaf covers, the request behind it and the materials: steps that follow
//! [`crate::bound`] and consume one another's types.

use provenance::binding::{KeyRole, LeafBody, Nonce};
use provenance::digest::Sha256Digest;
use provenance::dsse::{DsseError, IN_TOTO_PAYLOAD_TYPE};
use provenance::evidence::EvidenceBundle;
use provenance::key::{InvalidPublicKey, PublicKey};
use provenance::materials::{Completeness, MaterialClass};
use provenance::request::{InvalidRequest, SignedRequest, authenticate_request};
use provenance::statement::{InvalidStatement, Statement};

use crate::attached::{HashedEnvelope, Work};
use crate::bound::{self, BindingError, BoundLeaf};
use crate::policy::{Caller, Policy};
use crate::rejection::Reason;

/// Why a statement is not what the report covers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// The bundle lacks the key that signs the statement.
    #[error("Evidence holds no `signing-key` record, so no signature can be checked")]
    NoSigningKey,
    /// The key is malformed.
    #[error("`signing-key` record: {0}")]
    SigningKey(#[from] InvalidPublicKey),
    /// The key is not the one that the report covers.
    #[error("signing key is {got}, the report covers {wanted}")]
    OtherSigningKey {
        /// SHA-256 of the key's SPKI.
        got: Sha256Digest,
        /// Digest in the leaf.
        wanted: Sha256Digest,
    },
    /// No statement at hand is the one that the report covers.
    #[error(
        "report covers statement {wanted}; none of the {looked_at} statements attached to the image is it"
    )]
    NoStatement {
        /// Digest in the leaf.
        wanted: Sha256Digest,
        /// Statements looked at.
        looked_at: usize,
    },
    /// No statement about the image is signed with the key that the Attestation Result covers.
    #[error("none of the {looked_at} statements attached is about {target} and signed with the key {key}")]
    NoStatementOfKey {
        /// The image.
        target: Sha256Digest,
        /// SHA-256 of the SPKI of the key.
        key: Sha256Digest,
        /// Statements looked at.
        looked_at: usize,
    },
    /// The envelope's type or signature is wrong.
    #[error("statement: {0}")]
    Envelope(#[from] DsseError),
    /// The statement is malformed or contradicts itself.
    #[error(transparent)]
    Statement(#[from] InvalidStatement),
    /// The statement names another instance.
    #[error("statement names instance {got}, the report covers {wanted}")]
    Instance {
        /// Digest in the statement.
        got: Sha256Digest,
        /// Digest in the leaf.
        wanted: Sha256Digest,
    },
    /// The statement names another builder than its instance.
    #[error("statement names builder `{got}`, its instance is `{wanted}`")]
    Builder {
        /// Builder id in the statement.
        got: String,
        /// Builder id of the instance document.
        wanted: String,
    },
}

/// What Evidence covers of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// Statement and nonce.
    Build {
        /// The caller's nonce.
        nonce: Nonce,
    },
    /// The signing key alone: an Attestation Result that was made once for the key.
    Key {
        /// SHA-256 that the leaf names the project by.
        project: Sha256Digest,
    },
}

impl Coverage {
    /// `build` or `key`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Build { .. } => "build",
            Self::Key { .. } => "key",
        }
    }
}

/// A statement that an accepted guest made and signed. Made only by [`bind_statement`].
#[derive(Debug, Clone)]
pub struct BoundStatement {
    bound: BoundLeaf,
    statement: Statement,
    statement_sha256: Sha256Digest,
    signing_key: PublicKey,
    coverage: Coverage,
}

impl BoundStatement {
    /// Guest, leaf and instance.
    #[must_use]
    pub fn bound(&self) -> &BoundLeaf {
        &self.bound
    }

    /// The statement.
    #[must_use]
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// SHA-256 of the exact DSSE payload.
    #[must_use]
    pub fn statement_sha256(&self) -> Sha256Digest {
        self.statement_sha256
    }

    /// The project key that signs.
    #[must_use]
    pub fn signing_key(&self) -> &PublicKey {
        &self.signing_key
    }

    /// What the Evidence covers.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        self.coverage
    }
}

/// Checks that the leaf is of a build, finds the statement that it names among `envelopes`, and checks key and
/// signature. Where an Attestation Result covers a key and the policy allows it, the statement is one about `target`
/// that the key signed.
pub(crate) fn bind_statement(
    bound: BoundLeaf,
    bundle: &EvidenceBundle,
    (envelopes, work): (&[&HashedEnvelope], &Work),
    target: Sha256Digest,
    policy: &Policy,
) -> Result<BoundStatement, Reason> {
    let by_result = bound.by_result();
    let (coverage, statement, statement_sha256, signing_key) = match bound.leaf().body {
        LeafBody::Build { spki_sha256, nonce, statement_sha256 } => {
            let key = bundled_key(bundle, spki_sha256)?;
            let statement = authentic_statement(envelopes, work, &key, statement_sha256)?;
            (Coverage::Build { nonce }, statement, statement_sha256, key)
        }
        LeafBody::Key { role, scope_sha256, spki_sha256 } if by_result => {
            bound::appraise_key_only(&bound, policy)?;
            if role != KeyRole::ProjectSigning {
                return Err(BindingError::KeyRole.into());
            }
            let key = bundled_key(bundle, spki_sha256)?;
            let (statement, digest) = statement_of_key(envelopes, work, &key, target)?;
            (Coverage::Key { project: scope_sha256 }, statement, digest, key)
        }
        ref other => {
            return Err(BindingError::LeafKind { got: bound::kind(other), wanted: "build" }.into());
        }
    };
    let definition = &statement.predicate.build_definition;
    let (got, wanted) = (definition.internal_parameters.instance_digest, bound.leaf().instance_sha256);
    if got != wanted {
        return Err(StatementError::Instance { got, wanted }.into());
    }
    let (got, wanted) = (&statement.predicate.run_details.builder.id, &bound.instance().builder_id);
    if got != wanted {
        return Err(StatementError::Builder { got: got.clone(), wanted: wanted.clone() }.into());
    }
    Ok(BoundStatement { bound, statement, statement_sha256, signing_key, coverage })
}

/// The key in the bundle, which must be the one that the leaf names.
fn bundled_key(bundle: &EvidenceBundle, spki_sha256: Sha256Digest) -> Result<PublicKey, StatementError> {
    let key = PublicKey::from_spki_der(bundle.signing_key.as_deref().ok_or(StatementError::NoSigningKey)?)?;
    if key.spki_sha256() != spki_sha256 {
        return Err(StatementError::OtherSigningKey { got: key.spki_sha256(), wanted: spki_sha256 });
    }
    Ok(key)
}

/// A statement about `target` that the key signed.
fn statement_of_key(
    envelopes: &[&HashedEnvelope],
    work: &Work,
    key: &PublicKey,
    target: Sha256Digest,
) -> Result<(Statement, Sha256Digest), Reason> {
    for envelope in envelopes {
        let signed = envelope.authenticate(IN_TOTO_PAYLOAD_TYPE, key, work).ok_or(Reason::TooMuchWork)?;
        // Other documents of the key may be attached too, such as cosign's signatures: those are no provenance.
        let statement = signed.ok().and_then(|payload| Statement::parse(payload).ok());
        if let Some(statement) = statement.filter(|it| it.subject_digests().contains(&target)) {
            return Ok((statement, envelope.payload_sha256()));
        }
    }
    Err(StatementError::NoStatementOfKey { target, key: key.spki_sha256(), looked_at: envelopes.len() }
        .into())
}

fn authentic_statement(
    envelopes: &[&HashedEnvelope],
    work: &Work,
    key: &PublicKey,
    statement_sha256: Sha256Digest,
) -> Result<Statement, Reason> {
    let mut error = StatementError::NoStatement { wanted: statement_sha256, looked_at: envelopes.len() };
    for envelope in envelopes.iter().filter(|envelope| envelope.payload_sha256() == statement_sha256) {
        // The same statement may be attached more than once, also signed by others.
        match envelope.authenticate(IN_TOTO_PAYLOAD_TYPE, key, work).ok_or(Reason::TooMuchWork)? {
            Ok(payload) => return Ok(Statement::parse(payload).map_err(StatementError::from)?),
            Err(problem) => error = problem.into(),
        }
    }
    Err(error.into())
}

/// Why the request behind a build is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestRefusal {
    /// The bundle lacks the signed request.
    #[error("Evidence holds no `request` record, so nobody knows who asked for the build")]
    NoRequest,
    /// The policy does not name the caller.
    #[error("request is by caller {got}, policy accepts {}", .wanted.join(", "))]
    CallerNotAccepted {
        /// SHA-256 of the SPKI of the caller's key.
        got: Sha256Digest,
        /// Names and digests accepted.
        wanted: Vec<String>,
        /// Line of the policy.
        line: usize,
    },
    /// Neither policy nor bundle hold the caller's key.
    #[error("neither policy nor Evidence (`caller-key`) hold the public key of caller {caller}")]
    NoCallerKey {
        /// SHA-256 of the SPKI of the caller's key.
        caller: Sha256Digest,
    },
    /// The caller's key in the bundle is malformed.
    #[error("`caller-key` record: {0}")]
    CallerKey(#[from] InvalidPublicKey),
    /// The caller's key in the bundle is another one.
    #[error("`caller-key` record is {got}, the statement names caller {wanted}")]
    OtherCallerKey {
        /// SHA-256 of the SPKI of the key in the bundle.
        got: Sha256Digest,
        /// Caller that the statement names.
        wanted: Sha256Digest,
    },
    /// The request's signature or contents are wrong, or the caller is no member of its project.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// The statement was made for another request.
    #[error("statement was made for request {got}, the signed request is {wanted}")]
    OtherRequest {
        /// Digest in the statement.
        got: Sha256Digest,
        /// Digest of the signed request.
        wanted: Sha256Digest,
    },
    /// The build is of another request than the one expected.
    #[error("build is of request {got}, this client asked for {wanted}")]
    UnexpectedRequest {
        /// Digest of the signed request.
        got: Sha256Digest,
        /// Digest expected.
        wanted: Sha256Digest,
    },
    /// Leaf and request hold different nonces.
    #[error("report covers nonce {}, the signed request holds {}", hex::encode(.got.0), hex::encode(.wanted.0))]
    Nonce {
        /// Nonce in the leaf.
        got: Nonce,
        /// Nonce in the request.
        wanted: Nonce,
    },
    /// The key that the Attestation Result covers is of another project than the request.
    #[error("signing key is of project {got}, the request is of {wanted}")]
    KeyOfOtherProject {
        /// Project that the leaf names.
        got: Sha256Digest,
        /// Project of the request.
        wanted: Sha256Digest,
    },
    /// The policy does not name the project.
    #[error("project is {got}, policy accepts {}", .wanted.join(", "))]
    ProjectNotAccepted {
        /// Id of the project.
        got: String,
        /// Ids accepted.
        wanted: Vec<String>,
        /// Line of the policy.
        line: usize,
    },
    /// The statement names another build than the request.
    #[error("statement names build `{got}`, the signed request `{wanted}`")]
    Invocation {
        /// Name in the statement.
        got: String,
        /// Name from the request.
        wanted: String,
    },
}

impl RequestRefusal {
    /// Line of the policy that refuses, if it is the policy that does.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::CallerNotAccepted { line, .. } | Self::ProjectNotAccepted { line, .. } => Some(*line),
            _ => None,
        }
    }
}

/// A bound statement with the signed request that it answers. Made only by [`appraise_request`].
#[derive(Debug, Clone)]
pub struct RequestedStatement {
    statement: BoundStatement,
    request: SignedRequest,
    caller: Option<Caller>,
}

impl RequestedStatement {
    /// The statement.
    #[must_use]
    pub fn bound_statement(&self) -> &BoundStatement {
        &self.statement
    }

    /// The request.
    #[must_use]
    pub fn request(&self) -> &SignedRequest {
        &self.request
    }

    /// The caller as the policy names it; `None` when the policy names projects only.
    #[must_use]
    pub fn caller(&self) -> Option<&Caller> {
        self.caller.as_ref()
    }
}

/// Checks who asked, for which project, and that the statement answers exactly this request.
pub(crate) fn appraise_request(
    statement: BoundStatement,
    bundle: &EvidenceBundle,
    policy: &Policy,
    expected: Option<Sha256Digest>,
) -> Result<RequestedStatement, RequestRefusal> {
    let envelope = bundle.request.as_deref().ok_or(RequestRefusal::NoRequest)?;
    let external = &statement.statement.predicate.build_definition.external_parameters;
    let claimed = external.caller;
    let caller = match policy.callers() {
        None => None,
        Some(callers) => {
            Some(callers.value.iter().find(|caller| caller.spki_sha256 == claimed).ok_or_else(|| {
                RequestRefusal::CallerNotAccepted {
                    got: claimed,
                    wanted: callers
                        .value
                        .iter()
                        .map(|caller| format!("\"{}\" ({})", caller.name, caller.spki_sha256))
                        .collect(),
                    line: callers.line,
                }
            })?)
        }
    };
    // Looked at also where the policy holds the key itself: nothing in the bundle may say something else.
    let shown = bundle.caller_key.as_deref().map(PublicKey::from_spki_der).transpose()?;
    if let Some(got) = shown.as_ref().map(PublicKey::spki_sha256).filter(|got| *got != claimed) {
        return Err(RequestRefusal::OtherCallerKey { got, wanted: claimed });
    }
    let key = caller
        .and_then(|caller| caller.key.clone())
        .or(shown)
        .ok_or(RequestRefusal::NoCallerKey { caller: claimed })?;
    let signed = authenticate_request(envelope, &key)?;
    if external.request_digest != signed.request_sha256() {
        return Err(RequestRefusal::OtherRequest {
            got: external.request_digest,
            wanted: signed.request_sha256(),
        });
    }
    if let Some(wanted) = expected.filter(|wanted| *wanted != signed.request_sha256()) {
        return Err(RequestRefusal::UnexpectedRequest { got: signed.request_sha256(), wanted });
    }
    let project = signed.request().project.id();
    match statement.coverage {
        Coverage::Build { nonce: got } if got != signed.request().nonce => {
            return Err(RequestRefusal::Nonce { got, wanted: signed.request().nonce });
        }
        Coverage::Key { project: got } if got != project.0 => {
            return Err(RequestRefusal::KeyOfOtherProject { got, wanted: project.0 });
        }
        Coverage::Build { .. } | Coverage::Key { .. } => {}
    }
    if let Some(projects) = policy.projects().filter(|projects| !projects.value.contains(&project)) {
        return Err(RequestRefusal::ProjectNotAccepted {
            got: project.to_string(),
            wanted: projects.value.iter().map(ToString::to_string).collect(),
            line: projects.line,
        });
    }
    let wanted = format!("projects/{project}/builds/{}", signed.request().build_id);
    let got = &statement.statement.predicate.run_details.metadata.invocation_id;
    if *got != wanted {
        return Err(RequestRefusal::Invocation { got: got.clone(), wanted });
    }
    Ok(RequestedStatement { caller: caller.cloned(), statement, request: signed })
}

/// Why the materials are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MaterialsRefusal {
    /// A class is less complete than the policy wants.
    #[error("materials of class `{}` are stated as {stated}, policy wants {wanted}", class.name())]
    Completeness {
        /// The class.
        class: MaterialClass,
        /// What the statement says.
        stated: String,
        /// The policy's word for what it wants.
        wanted: &'static str,
        /// Line of the policy.
        line: usize,
    },
}

impl MaterialsRefusal {
    /// Line of the policy that refuses.
    #[must_use]
    pub fn line(&self) -> usize {
        let Self::Completeness { line, .. } = self;
        *line
    }
}

/// What a statement says about one class, in words.
pub(crate) fn describe(stated: &Completeness) -> String {
    match stated {
        Completeness::Observed {} => "observed".to_owned(),
        Completeness::Committed {} => "committed".to_owned(),
        Completeness::None {} => "none".to_owned(),
        Completeness::Incomplete { reason } => {
            let reason: String = reason.chars().filter(|c| !c.is_control()).take(300).collect();
            format!("incomplete ({reason})")
        }
    }
}

/// Compares how complete each class of materials is with the policy.
pub(crate) fn appraise_materials(statement: &Statement, policy: &Policy) -> Result<(), MaterialsRefusal> {
    let completeness = &statement.predicate.build_definition.internal_parameters.completeness;
    for (class, requirement) in policy.materials() {
        // A statement that parsed says something about every class.
        let met = completeness.get(class).is_some_and(|stated| requirement.value.is_met_by(stated));
        if !met {
            return Err(MaterialsRefusal::Completeness {
                class: *class,
                stated: completeness.get(class).map_or_else(|| "nothing".to_owned(), describe),
                wanted: requirement.value.name(),
                line: requirement.line,
            });
        }
    }
    Ok(())
}
