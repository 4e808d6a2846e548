//! Logging in to a registry: Basic and the Bearer token flow (distribution "Token Authentication
//! Specification" and its OAuth2 form for identity tokens).
//!
//! Credentials go to the registry they are for and, in the Bearer flow, to the token service that this
//! registry names over the same kind of connection; a token goes to the registry only.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::client::{Failure, Settings, bounded_body, detail, network_failure};
use super::error::{Login, PushError};

/// Largest answer of a token service in bytes.
const MAX_TOKEN_ANSWER: usize = 256 << 10;
/// OAuth2 client id that token services see.
const CLIENT_ID: &str = "sealwright";

/// A login for one registry. No `Debug` or `Clone`: it must not reach logs or linger in copies.
pub enum Credential {
    /// User name and password or access token.
    Password {
        /// User name.
        username: String,
        /// Password.
        password: Zeroizing<String>,
    },
    /// OAuth2 refresh token (`identitytoken` of a Docker configuration).
    IdentityToken(Zeroizing<String>),
}

/// Where logins come from: the caller's credentials of one build.
pub trait CredentialSource: Send + Sync {
    /// The login for a registry host (with port as in image names; Docker Hub is `registry-1.docker.io`).
    fn credential(&self, host: &str) -> Option<Credential>;
}

/// No logins at all.
pub struct Anonymous;

impl CredentialSource for Anonymous {
    fn credential(&self, _host: &str) -> Option<Credential> {
        None
    }
}

/// What a request may carry, and which renewal it came from.
#[derive(Clone)]
pub(super) struct Grant {
    pub(super) header: HeaderValue,
    generation: u64,
}

/// The login state of one registry during one push.
pub(super) struct Authenticator {
    registry: String,
    credential: Option<Credential>,
    /// By repository. The lock is held across a renewal so that parallel uploads log in once.
    grants: Mutex<HashMap<String, Grant>>,
}

impl Authenticator {
    pub(super) fn new(registry: &str, credential: Option<Credential>) -> Self {
        Self { registry: registry.to_owned(), credential, grants: Mutex::default() }
    }

    pub(super) fn has_login(&self) -> bool {
        self.credential.is_some()
    }

    pub(super) async fn grant(&self, repository: &str) -> Option<Grant> {
        self.grants.lock().await.get(repository).cloned()
    }

    /// Answers a 401 to a request that carried `used`. `also` are repositories to read from (for mounts).
    ///
    /// Cancel safe: a dropped renewal leaves the former state.
    pub(super) async fn renew(
        &self,
        settings: &Settings,
        action: &str,
        repository: &str,
        also: &[String],
        used: Option<&Grant>,
        answer: &HeaderMap,
    ) -> Result<(), Failure> {
        let mut grants = self.grants.lock().await;
        let held = grants.get(repository).map_or(0, |grant| grant.generation);
        if held != used.map_or(0, |grant| grant.generation) {
            return Ok(());
        }
        let unauthorized = |login| {
            Failure::last(PushError::Unauthorized {
                registry: self.registry.clone(),
                repository: repository.to_owned(),
                action: action.to_owned(),
                login,
            })
        };
        let challenges = challenges(answer);
        let header = if let Some(bearer) = challenges.iter().find(|c| c.scheme.eq_ignore_ascii_case("bearer"))
        {
            let header = self.token(settings, bearer, repository, also).await?;
            // An anonymous token that was already refused will be refused again.
            if self.credential.is_none() && used.is_some() {
                return Err(unauthorized(Login::Missing));
            }
            header
        } else if challenges.iter().any(|c| c.scheme.eq_ignore_ascii_case("basic")) {
            let Some(Credential::Password { username, password }) = &self.credential else {
                return Err(unauthorized(Login::Missing));
            };
            if used.is_some() {
                return Err(unauthorized(Login::NotAccepted));
            }
            basic(username, password)
        } else {
            let problem = if challenges.is_empty() {
                "no WWW-Authenticate header".to_owned()
            } else {
                challenges[0].scheme.clone()
            };
            return Err(Failure::last(PushError::Challenge { registry: self.registry.clone(), problem }));
        };
        grants.insert(repository.to_owned(), Grant { header, generation: held + 1 });
        Ok(())
    }

    /// Fetches a token for pull and push of one repository.
    async fn token(
        &self,
        settings: &Settings,
        challenge: &Challenge,
        repository: &str,
        also: &[String],
    ) -> Result<HeaderValue, Failure> {
        let malformed = |problem: &str| {
            Failure::last(PushError::Challenge {
                registry: self.registry.clone(),
                problem: problem.to_owned(),
            })
        };
        let realm = challenge.parameter("realm").ok_or_else(|| malformed("Bearer without realm"))?;
        let mut url = Url::parse(realm).map_err(|_| malformed("Bearer realm is no URL"))?;
        let action = format!("the login for `{repository}`");
        if !settings.may_speak_to(&url) {
            return Err(Failure::last(PushError::Redirect {
                registry: self.registry.clone(),
                action,
                target: url.origin().ascii_serialization(),
                problem: "its token service must be https, because a login is sent to it",
            }));
        }
        let scopes: Vec<String> = std::iter::once(format!("repository:{repository}:pull,push"))
            .chain(
                also.iter()
                    .filter(|other| *other != repository)
                    .map(|other| format!("repository:{other}:pull")),
            )
            .collect();
        let service = challenge.parameter("service");
        let request = if let Some(Credential::IdentityToken(token)) = &self.credential {
            let scope = scopes.join(" ");
            let mut form = vec![("grant_type", "refresh_token"), ("client_id", CLIENT_ID), ("scope", &scope)];
            form.extend(service.map(|service| ("service", service)));
            form.push(("refresh_token", token));
            let body = form_encoded(&form);
            settings
                .http
                .post(url.clone())
                .header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(body)
        } else {
            {
                let mut query = url.query_pairs_mut();
                query.extend_pairs(service.map(|service| ("service", service)));
                query.extend_pairs(scopes.iter().map(|scope| ("scope", scope)));
            }
            let request = settings.http.get(url.clone());
            match &self.credential {
                Some(Credential::Password { username, password }) => {
                    request.header(AUTHORIZATION, basic(username, password))
                }
                _ => request,
            }
        };
        let answer = request
            .timeout(settings.config.stall)
            .send()
            .await
            .map_err(|error| network_failure(&self.registry, &action, error))?;
        let status = answer.status();
        let body = bounded_body(answer, MAX_TOKEN_ANSWER)
            .await
            .map_err(|problem| malformed(&format!("token service's answer: {problem}")))?;
        if !status.is_success() {
            let error = PushError::LoginRefused {
                registry: self.registry.clone(),
                realm: url.host_str().unwrap_or_default().to_owned(),
                repository: repository.to_owned(),
                status: status.as_u16(),
                detail: detail(&body),
            };
            let later = status.is_server_error() || status == reqwest::StatusCode::TOO_MANY_REQUESTS;
            return Err(if later { Failure::again(error) } else { Failure::last(error) });
        }
        let token: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|_| malformed("token service's answer is no JSON with a token"))?;
        let token = token
            .token
            .or(token.access_token)
            .filter(|token| !token.is_empty())
            .ok_or_else(|| malformed("token service's answer holds no token"))?;
        sensitive(&format!("Bearer {token}"))
            .ok_or_else(|| malformed("token holds bytes that a header must not"))
    }
}

/// `application/x-www-form-urlencoded`, which is how a URL writes its query.
fn form_encoded(pairs: &[(&str, &str)]) -> String {
    let mut url = Url::parse("https://form.invalid/").expect("a constant URL");
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

fn basic(username: &str, password: &str) -> HeaderValue {
    let joined = Zeroizing::new(format!("{username}:{password}"));
    sensitive(&format!("Basic {}", STANDARD.encode(joined.as_bytes()))).expect("base64 is header text")
}

/// A header value that hyper neither prints nor puts into HPACK's table.
fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// One challenge of a `WWW-Authenticate` header (RFC 9110 §11.6.1).
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(parse_challenges)
        .collect()
}

/// Reads `scheme key=value, key="value", scheme …`. What does not fit is skipped.
fn parse_challenges(text: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',', '=', '"']);
        if rest.is_empty() {
            return found;
        }
        let end = rest.find([' ', '\t', ',', '=', '"']).unwrap_or(rest.len());
        let (token, tail) = rest.split_at(end);
        let tail = tail.trim_start_matches([' ', '\t']);
        let Some(value) = tail.strip_prefix('=') else {
            found.push(Challenge { scheme: token.to_owned(), parameters: Vec::new() });
            rest = tail;
            continue;
        };
        let (value, tail) = match value.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = value.find([' ', '\t', ',']).unwrap_or(value.len());
                (value[..end].to_owned(), &value[end..])
            }
        };
        if let Some(challenge) = found.last_mut() {
            challenge.parameters.push((token.to_owned(), value));
        }
        rest = tail;
    }
}

/// A quoted string up to its closing quote (RFC 9110 §5.6.4), and what follows.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_with_quotes_commas_and_several_schemes() {
        let parsed = parse_challenges(
            r#"Bearer realm="https://auth.example/token?a=b,c",service=reg , scope="x:\"y\"", Basic realm="r""#,
        );
        assert_eq!(parsed.len(), 2);
        assert_eq!(parsed[0].parameter("REALM"), Some("https://auth.example/token?a=b,c"));
        assert_eq!(parsed[0].parameter("service"), Some("reg"));
        assert_eq!(parsed[0].parameter("scope"), Some("x:\"y\""));
        assert_eq!((parsed[1].scheme.as_str(), parsed[1].parameter("realm")), ("Basic", Some("r")));
    }

    #[test]
    fn malformed_challenges_end_and_give_no_realm() {
        for text in [
            "",
            ",,,",
            "=",
            "\"",
            "Bearer",
            "Bearer realm",
            "Bearer realm=\"unterminated",
            "realm=\"x\"",
            "é=\"ü\\",
        ] {
            for challenge in parse_challenges(text) {
                assert!(challenge.parameter("realm").is_none_or(|realm| realm == "unterminated"), "{text}");
            }
        }
    }
}
