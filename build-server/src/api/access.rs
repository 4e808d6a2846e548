//! Who may call for which project. Membership is shown by the project's own document, which is its id: the
//! operator may refuse a project and cannot join one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use provenance::key::PublicKey;
use provenance::project::{Project, ProjectId};
use tonic::Request;

use super::connection::ConnectionInfo;
use super::errors::{ApiError, PROJECT_METADATA};
use crate::jobs::JobStore;

/// Project documents kept in memory; a few bytes each, of callers that were members.
const CACHED_PROJECTS: usize = 4096;

/// Which projects the operator admits.
#[derive(Debug, Clone)]
pub enum Admission {
    /// Every project.
    Any,
    /// These.
    Only(Vec<ProjectId>),
}

impl Admission {
    /// Refuses a project that is not admitted.
    pub fn admit(&self, project: &ProjectId) -> Result<(), ApiError> {
        match self {
            Self::Any => Ok(()),
            Self::Only(projects) if projects.contains(project) => Ok(()),
            Self::Only(_) => Err(ApiError::NotAdmitted { project: *project }),
        }
    }
}

/// A caller that was found to be a member of an admitted project. Made only by [`Access::member`].
#[derive(Debug, Clone)]
pub struct Member {
    project: ProjectId,
    caller: PublicKey,
}

impl Member {
    /// The project.
    #[must_use]
    pub fn project(&self) -> &ProjectId {
        &self.project
    }

    /// The caller's key.
    #[must_use]
    pub fn caller(&self) -> &PublicKey {
        &self.caller
    }

    /// The one answer for everything that is not there, or not for this caller.
    #[must_use]
    pub fn not_found(&self, name: impl ToString) -> ApiError {
        ApiError::NotFound { name: name.to_string(), caller: self.caller.spki_sha256() }
    }
}

/// Decides about calls.
#[derive(Clone)]
pub struct Access {
    admission: Admission,
    store: Arc<JobStore>,
    known: Arc<Mutex<HashMap<ProjectId, Arc<Project>>>>,
}

/// The caller of a request, or UNAUTHENTICATED.
pub(super) fn caller<T>(request: &Request<T>) -> Result<PublicKey, ApiError> {
    connection(request)?.caller().cloned().ok_or(ApiError::Unauthenticated)
}

/// The connection that a request came on.
pub(super) fn connection<T>(request: &Request<T>) -> Result<&ConnectionInfo, ApiError> {
    request
        .extensions()
        .get::<ConnectionInfo>()
        .ok_or_else(|| ApiError::Internal("a request without its connection".into()))
}

impl Access {
    /// Decides by the operator's admission; `store` knows the documents of earlier calls.
    #[must_use]
    pub fn new(admission: Admission, store: Arc<JobStore>) -> Self {
        Self { admission, store, known: Arc::default() }
    }

    /// Which projects are admitted.
    #[must_use]
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Finds the caller to be a member of `project`, which `name` (the resource asked for) belongs to.
    ///
    /// The document comes from the request's metadata or an earlier call. A project that nobody has shown to
    /// this server, one that the caller is not a member of, and a build that is not there look the same.
    pub async fn member<T>(
        &self,
        request: &Request<T>,
        project: ProjectId,
        name: &str,
    ) -> Result<Member, ApiError> {
        let caller = caller(request)?;
        let shown = shown_document(request, project)?;
        let not_found = || ApiError::NotFound { name: name.to_owned(), caller: caller.spki_sha256() };
        let document = match shown {
            Some(shown) => shown,
            None => self.known(project).await?.ok_or_else(not_found)?,
        };
        if !document.has_member(&caller.spki_sha256()) {
            return Err(not_found());
        }
        // Only a member is told that the operator does not admit the project.
        self.admission.admit(&project)?;
        self.remember(project, document).await?;
        connection(request)?.member_called();
        Ok(Member { project, caller })
    }

    async fn known(&self, project: ProjectId) -> Result<Option<Arc<Project>>, ApiError> {
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&project) {
            return Ok(Some(known.clone()));
        }
        let store = self.store.clone();
        let stored = super::blocking(move || Ok(store.project(&project)?)).await?;
        Ok(stored.map(Arc::new))
    }

    async fn remember(&self, id: ProjectId, project: Arc<Project>) -> Result<(), ApiError> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains_key(&id) {
            return Ok(());
        }
        // First the store: what is in memory counts as stored.
        let (store, document) = (self.store.clone(), project.clone());
        super::blocking(move || Ok(store.remember_project(&document)?)).await?;
        let mut known = known();
        if known.len() >= CACHED_PROJECTS {
            known.clear();
        }
        known.insert(id, project);
        Ok(())
    }
}

/// The document in the request's metadata; it must be of the project that the call names.
fn shown_document<T>(request: &Request<T>, wanted: ProjectId) -> Result<Option<Arc<Project>>, ApiError> {
    let Some(value) = request.metadata().get_bin(PROJECT_METADATA) else { return Ok(None) };
    let bytes = value
        .to_bytes()
        .map_err(|_| ApiError::field("sealwright-project-bin", "the metadata value is not base64"))?;
    let project = Project::parse(&bytes).map_err(ApiError::ProjectDocument)?;
    let got = project.id();
    if got != wanted {
        return Err(ApiError::OtherProject { got, wanted });
    }
    Ok(Some(Arc::new(project)))
}
