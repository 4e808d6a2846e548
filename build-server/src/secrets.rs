//! Values that live in memory only: build secrets and registry logins. They are zeroised when the build ends
//! and never reach the job store, a log or an error.

use std::collections::BTreeMap;

use provenance::commitment::commit_to_secrets;
use provenance::request::SecretsCommitment;
use zeroize::Zeroizing;

/// Largest secret in bytes, as in BuildKit.
pub const MAX_SECRET: usize = 500 << 10;
/// Most registry logins of one build.
pub const MAX_CREDENTIALS: usize = 64;
/// Longest part of a registry login in bytes (identity tokens are long).
pub const MAX_CREDENTIAL: usize = 16 << 10;

/// Why secrets do not belong to a signed request. No message holds a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSecrets {
    /// Values without a commitment in the signed request.
    #[error("{got} secrets came, the signed request commits to none")]
    NotCommitted {
        /// How many came.
        got: usize,
    },
    /// The signed request commits to secrets and none came.
    #[error("the signed request commits to {wanted} secrets, none came")]
    Missing {
        /// How many are wanted.
        wanted: usize,
    },
    /// The commitment key has another length.
    #[error("the commitment key has {got} bytes, wanted 32")]
    KeyLength {
        /// Bytes seen.
        got: usize,
    },
    /// The ids are not those of the request.
    #[error("the secrets' ids are not those of the signed request, ascending and each once")]
    Ids,
    /// A value beyond the limit.
    #[error("secret `{id}` has {got} bytes, at most {MAX_SECRET} are allowed")]
    TooLarge {
        /// Its id.
        id: String,
        /// Bytes seen.
        got: usize,
    },
    /// The values are not those that the caller committed to.
    #[error("the secrets' values do not match the commitment in the signed request")]
    Commitment,
}

/// Why registry logins are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCredentials {
    /// More than [`MAX_CREDENTIALS`].
    #[error("{got} registry logins, at most {MAX_CREDENTIALS} are allowed")]
    TooMany {
        /// How many came.
        got: usize,
    },
    /// A host that is no `host[:port]`.
    #[error("registry login {index} is for a host that is no `host` or `host:port`")]
    Host {
        /// Its place, from 0.
        index: usize,
    },
    /// Two logins for one host.
    #[error("two registry logins for host `{host}`")]
    Twice {
        /// The host.
        host: String,
    },
    /// A part beyond [`MAX_CREDENTIAL`].
    #[error("the registry login for `{host}` is longer than {MAX_CREDENTIAL} bytes")]
    TooLong {
        /// The host.
        host: String,
    },
}

/// The secrets of one build.
///
/// `Debug`, `Clone` and `Serialize` are left out: each would be a way for a value to leave.
#[derive(Default)]
pub struct SecretValues {
    values: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

impl SecretValues {
    /// Checks the values against the signed request: same ids, and the commitment holds.
    ///
    /// `key` is the commitment key `r`, 32 bytes; `values` are (id, value), ascending by id.
    pub fn new(
        commitment: Option<&SecretsCommitment>,
        key: &[u8],
        values: Vec<(String, Zeroizing<Vec<u8>>)>,
    ) -> Result<Self, InvalidSecrets> {
        let Some(commitment) = commitment else {
            return if values.is_empty() {
                Ok(Self::default())
            } else {
                Err(InvalidSecrets::NotCommitted { got: values.len() })
            };
        };
        if values.is_empty() {
            return Err(InvalidSecrets::Missing { wanted: commitment.ids.len() });
        }
        let key: &[u8; 32] = key.try_into().map_err(|_| InvalidSecrets::KeyLength { got: key.len() })?;
        if !values.iter().map(|(id, _)| id).eq(&commitment.ids) {
            return Err(InvalidSecrets::Ids);
        }
        if let Some((id, value)) = values.iter().find(|(_, value)| value.len() > MAX_SECRET) {
            return Err(InvalidSecrets::TooLarge { id: id.clone(), got: value.len() });
        }
        // The shared function wants plain vectors; they are wiped again right after.
        let mut plain: BTreeMap<String, Vec<u8>> =
            values.iter().map(|(id, v)| (id.clone(), v.to_vec())).collect();
        let got = commit_to_secrets(key, &plain);
        for value in plain.values_mut() {
            zeroize::Zeroize::zeroize(value);
        }
        if !equal_in_constant_time(got.as_bytes(), commitment.commitment.as_bytes()) {
            return Err(InvalidSecrets::Commitment);
        }
        Ok(Self { values: values.into_iter().collect() })
    }

    /// The value of one secret.
    #[must_use]
    pub fn value(&self, id: &str) -> Option<&[u8]> {
        self.values.get(id).map(|value| value.as_slice())
    }

    /// All secrets, ascending by id.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.values.iter().map(|(id, value)| (id.as_str(), value.as_slice()))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// Compares under a random MAC key: an early exit would tell how much of a guess was right.
fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    use ring::hmac;
    let random = ring::rand::SystemRandom::new();
    hmac::Key::generate(hmac::HMAC_SHA256, &random)
        .is_ok_and(|key| hmac::verify(&key, a, hmac::sign(&key, b).as_ref()).is_ok())
}

/// One registry login. `Debug`, `Clone` and `Serialize` are left out, as for [`SecretValues`].
pub struct RegistryLogin {
    /// User name; may be empty with an identity token.
    pub username: String,
    /// Password; empty with an identity token.
    pub password: Zeroizing<String>,
    /// OAuth2 refresh token, or empty.
    pub identity_token: Zeroizing<String>,
}

/// The caller's registry logins of one build.
#[derive(Default)]
pub struct RegistryCredentials {
    logins: BTreeMap<String, RegistryLogin>,
}

impl RegistryCredentials {
    /// Checks counts, lengths and hosts.
    pub fn new(logins: Vec<(String, RegistryLogin)>) -> Result<Self, InvalidCredentials> {
        if logins.len() > MAX_CREDENTIALS {
            return Err(InvalidCredentials::TooMany { got: logins.len() });
        }
        let mut checked = BTreeMap::new();
        for (index, (host, login)) in logins.into_iter().enumerate() {
            let fits = !host.is_empty()
                && host.len() <= 261
                && host.bytes().all(|b| {
                    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']')
                });
            if !fits {
                return Err(InvalidCredentials::Host { index });
            }
            if [&login.username, &*login.password, &*login.identity_token]
                .iter()
                .any(|part| part.len() > MAX_CREDENTIAL)
            {
                return Err(InvalidCredentials::TooLong { host });
            }
            if checked.contains_key(&host) {
                return Err(InvalidCredentials::Twice { host });
            }
            checked.insert(host, login);
        }
        Ok(Self { logins: checked })
    }

    /// The login for a registry host as it stands in image names (`docker.io` is `registry-1.docker.io`).
    #[must_use]
    pub fn for_host(&self, host: &str) -> Option<&RegistryLogin> {
        self.logins.get(host)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.logins.is_empty()
    }
}
