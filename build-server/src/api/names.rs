//! Resource names (AIP-122): `projects/{project}`, `projects/{project}/builds/{build}`,
//! `projects/{project}/contexts/{root}`, `instance` and `projects/{project}/instance`.

use std::fmt;

use provenance::digest::Sha256Digest;
use provenance::project::ProjectId;
use provenance::request::BuildId;

/// A text that is no resource name of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{seen}` is no resource name of the form `{wanted}`")]
pub struct InvalidName {
    /// The name as it came, cut to 200 characters.
    pub seen: String,
    /// The form that is wanted.
    pub wanted: &'static str,
}

/// Name of a build.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildName {
    /// The project that owns it.
    pub project: ProjectId,
    /// The client's id.
    pub build: BuildId,
}

impl fmt::Display for BuildName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "projects/{}/builds/{}", self.project, self.build)
    }
}

const PROJECT: &str = "projects/{64 lower-case hex digits}";
const BUILD: &str = "projects/{64 lower-case hex digits}/builds/{1 to 63 of a-z 0-9 -}";
const CONTEXT: &str = "projects/{64 lower-case hex digits}/contexts/{64 lower-case hex digits}";
const INSTANCE: &str = "instance` or `projects/{64 lower-case hex digits}/instance";

fn invalid(seen: &str, wanted: &'static str) -> InvalidName {
    InvalidName { seen: seen.chars().take(200).collect(), wanted }
}

fn project_id(hex: &str) -> Option<ProjectId> {
    Sha256Digest::from_hex(hex).ok().map(ProjectId)
}

/// `projects/{project}`.
pub fn parse_project(name: &str) -> Result<ProjectId, InvalidName> {
    name.strip_prefix("projects/").and_then(project_id).ok_or_else(|| invalid(name, PROJECT))
}

/// `projects/{project}/builds/{build}`.
pub fn parse_build(name: &str) -> Result<BuildName, InvalidName> {
    let parse = || {
        let [collection, project, builds, build] = parts(name)?;
        let fits = collection == "projects" && builds == "builds";
        let name =
            BuildName { project: project_id(project)?, build: BuildId::try_from(build.to_owned()).ok()? };
        fits.then_some(name)
    };
    parse().ok_or_else(|| invalid(name, BUILD))
}

/// `projects/{project}/contexts/{root}`.
pub fn parse_context(name: &str) -> Result<(ProjectId, Sha256Digest), InvalidName> {
    let parse = || {
        let [collection, project, contexts, root] = parts(name)?;
        let fits = collection == "projects" && contexts == "contexts";
        let parsed = (project_id(project)?, Sha256Digest::from_hex(root).ok()?);
        fits.then_some(parsed)
    };
    parse().ok_or_else(|| invalid(name, CONTEXT))
}

/// `instance` (`None`) or `projects/{project}/instance`.
pub fn parse_instance(name: &str) -> Result<Option<ProjectId>, InvalidName> {
    if name == "instance" {
        return Ok(None);
    }
    let project = name.strip_prefix("projects/").and_then(|rest| rest.strip_suffix("/instance"));
    project.and_then(project_id).map(Some).ok_or_else(|| invalid(name, INSTANCE))
}

/// Splits at `/` into exactly `N` parts.
fn parts<const N: usize>(name: &str) -> Option<[&str; N]> {
    // A name far too long is not worth splitting.
    if name.len() > 512 {
        return None;
    }
    name.split('/').collect::<Vec<_>>().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let hex = "ab".repeat(32);
        let name = parse_build(&format!("projects/{hex}/builds/b-1")).expect("well-formed");
        assert_eq!(name.to_string(), format!("projects/{hex}/builds/b-1"));
        assert!(parse_project(&format!("projects/{hex}")).is_ok());
        assert!(parse_context(&format!("projects/{hex}/contexts/{hex}")).is_ok());
        assert_eq!(parse_instance("instance"), Ok(None));
        assert!(matches!(parse_instance(&format!("projects/{hex}/instance")), Ok(Some(_))));
    }

    #[test]
    fn names_that_climb_or_differ_in_form_are_refused() {
        let hex = "ab".repeat(32);
        let upper = hex.to_uppercase();
        for bad in [
            String::new(),
            "/".into(),
            format!("/projects/{hex}/builds/b"),
            format!("projects/{upper}/builds/b"),
            format!("projects/{hex}/builds/.."),
            format!("projects/{hex}/builds/../../x"),
            format!("projects/{hex}/builds/"),
            format!("projects/{hex}/builds/b/"),
            format!("projects/{hex}/builds/B"),
            format!("projects/{hex}/builds/{}", "b".repeat(64)),
            format!("projects/{hex}0/builds/b"),
            format!("projects/{hex}/contexts/b"),
            "projects/..%2f/builds/b".to_owned(),
            format!("projects/{hex}/builds/b\0"),
        ] {
            assert!(parse_build(&bad).is_err(), "{bad}");
        }
    }
}
