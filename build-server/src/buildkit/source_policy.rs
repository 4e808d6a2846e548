//! PolicyVerifier: BuildKit asks about every source before it uses it. The answer is the policy's; what was
//! asked is recorded.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use proto::buildkit::moby::buildkit::v1::frontend;
use proto::buildkit::moby::buildkit::v1::sourcepolicy::{PolicyAction, policysession as session};
use proto::buildkit::pb;
use tonic::{Request, Response, Status};

/// Most questions of one build that are recorded; more are an error.
const MAX_QUESTIONS: usize = 10_000;

/// A source that a build wants to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceQuestion {
    /// BuildKit's identifier: `docker-image://…`, `git://…`, `https://…`, `local://…`, `oci-layout://…`.
    pub identifier: String,
    /// BuildKit's attributes of it.
    pub attributes: BTreeMap<String, String>,
    /// Platform `os/arch[/variant]` it is wanted for.
    pub platform: Option<String>,
}

/// What a policy says of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceDecision {
    /// Use it.
    Allow,
    /// Refuse it; the build fails with this reason.
    Deny {
        /// Why, for the caller.
        reason: String,
    },
    /// Use another source in its place (a tag pinned to a digest, a mirror).
    Convert {
        /// The other identifier.
        identifier: String,
        /// Its attributes.
        attributes: BTreeMap<String, String>,
    },
}

/// Decides about sources.
pub trait SourcePolicy: Send + Sync + 'static {
    /// The decision; asked again for what [`SourceDecision::Convert`] gives.
    fn decide(&self, source: &SourceQuestion) -> SourceDecision;
}

/// A policy that allows every source.
pub struct AllowAllSources;

impl SourcePolicy for AllowAllSources {
    fn decide(&self, _: &SourceQuestion) -> SourceDecision {
        SourceDecision::Allow
    }
}

/// Commit that a git source resolved to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GitCommit {
    /// Lower-case hex.
    pub(super) commit: String,
    /// Committer time in seconds since 1970.
    pub(super) time: Option<i64>,
}

/// What the verifier saw.
#[derive(Debug, Default)]
pub(super) struct Questions {
    pub(super) asked: Vec<SourceQuestion>,
    pub(super) denied: Option<(String, String)>,
    /// The main context's commit.
    pub(super) git_context: Option<GitCommit>,
}

pub(super) struct PolicyService {
    pub(super) policy: Arc<dyn SourcePolicy>,
    pub(super) questions: Arc<Mutex<Questions>>,
    /// The main context is a git repository: find out its commit and time before it is used.
    pub(super) git_context: bool,
}

fn platform_text(platform: &pb::Platform) -> Option<String> {
    if platform.os.is_empty() {
        return None;
    }
    let variant = if platform.variant.is_empty() { String::new() } else { format!("/{}", platform.variant) };
    Some(format!("{}/{}{variant}", platform.os, platform.architecture))
}

fn decision(decision: session::DecisionResponse) -> Response<session::CheckPolicyResponse> {
    let result = Some(session::check_policy_response::Result::Decision(decision));
    Response::new(session::CheckPolicyResponse { result })
}

impl PolicyService {
    /// For the first git source, which is the context: what it resolves to.
    fn wants_commit(&self, source: &pb::SourceOp, resolved: &frontend::ResolveSourceMetaResponse) -> bool {
        let known = self.questions.lock().unwrap_or_else(PoisonError::into_inner).git_context.is_some();
        self.git_context && !known && source.identifier.starts_with("git://") && resolved.git.is_none()
    }
}

#[tonic::async_trait]
impl session::policy_verifier_server::PolicyVerifier for PolicyService {
    async fn check_policy(
        &self,
        request: Request<session::CheckPolicyRequest>,
    ) -> Result<Response<session::CheckPolicyResponse>, Status> {
        let request = request.into_inner();
        let resolved = request.source.unwrap_or_default();
        let source = resolved.source.clone().ok_or_else(|| Status::invalid_argument("no source"))?;
        if self.wants_commit(&source, &resolved) {
            let more = frontend::ResolveSourceMetaRequest {
                source: Some(source),
                platform: request.platform,
                log_name: "[internal] pin the git context".to_owned(),
                git: Some(frontend::ResolveSourceGitRequest { return_object: true }),
                ..Default::default()
            };
            let result = Some(session::check_policy_response::Result::Request(more));
            return Ok(Response::new(session::CheckPolicyResponse { result }));
        }
        let question = SourceQuestion {
            identifier: source.identifier,
            attributes: source.attrs,
            platform: request.platform.as_ref().and_then(platform_text),
        };
        let verdict = self.policy.decide(&question);
        {
            let mut questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
            if questions.asked.len() >= MAX_QUESTIONS {
                return Err(Status::resource_exhausted(format!("more than {MAX_QUESTIONS} sources")));
            }
            if let Some(git) = resolved.git
                && self.git_context
                && questions.git_context.is_none()
            {
                let commit = if git.commit_checksum.is_empty() { git.checksum } else { git.commit_checksum };
                let time = committer_time(&git.commit_object);
                questions.git_context = Some(GitCommit { commit, time });
            }
            if let SourceDecision::Deny { reason } = &verdict {
                questions.denied = Some((question.identifier.clone(), reason.clone()));
            }
            if !questions.asked.contains(&question) {
                questions.asked.push(question);
            }
        }
        Ok(decision(match verdict {
            SourceDecision::Allow => {
                session::DecisionResponse { action: PolicyAction::Allow.into(), ..Default::default() }
            }
            SourceDecision::Deny { reason } => session::DecisionResponse {
                action: PolicyAction::Deny.into(),
                deny_messages: vec![session::DenyMessage { message: reason }],
                update: None,
            },
            SourceDecision::Convert { identifier, attributes } => session::DecisionResponse {
                action: PolicyAction::Convert.into(),
                update: Some(pb::SourceOp { identifier, attrs: attributes }),
                ..Default::default()
            },
        }))
    }
}

/// Time in the `committer` line of a commit object: `committer NAME <EMAIL> SECONDS ZONE`.
fn committer_time(object: &[u8]) -> Option<i64> {
    let header = object.split(|b| *b == b'\n').take_while(|line| !line.is_empty());
    let line = header.into_iter().find_map(|line| line.strip_prefix(b"committer "))?;
    let end = line.iter().rposition(|b| *b == b'>')?;
    std::str::from_utf8(&line[end + 1..]).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committer_time_is_read_from_the_header_only() {
        let object =
            b"tree 4b\nauthor A <a> 5 +0000\ncommitter B > <b> 1700000000 +0100\n\ncommitter C <c> 7 +0000\n";
        assert_eq!(committer_time(object), Some(1_700_000_000));
        assert_eq!(committer_time(b"tree 4b\n\ncommitter C <c> 7 +0000\n"), None);
    }
}
