//! Collecting endorsements from AMD's Key Distribution Service and Intel's Provisioning Certification Service, in the
//! form that `verify --endorsements` and a server's `tdx_endorsements` take.
//!
//! Nothing that comes is trusted: only its form is looked at, so that a page of a proxy or half a file is told at once
//! and never kept. Whether it is authentic and fresh is for the verifier, with the Evidence.

mod amd;
mod cache;
mod intel;
pub mod pem;
mod service;

use std::time::Duration;

use provenance::timestamp::Timestamp;
use reqwest::Url;
use verifier::endorsements::WantedEndorsements;

pub use self::cache::Cache;
use self::service::Service;

/// AMD's Key Distribution Service (AMD publication 57230, chapter 4).
pub const AMD_KDS: &str = "https://kdsintf.amd.com";
/// Intel's Provisioning Certification Service (API version 4).
pub const INTEL_PCS: &str = "https://api.trustedservices.intel.com";
/// Where Intel publishes the revocation list of its root.
pub const INTEL_ROOT_CRL: &str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der";
/// Largest answer in bytes. Genuine ones have up to 100 KiB.
pub const MAX_ANSWER: usize = 1 << 20;

/// Where to ask.
#[derive(Debug, Clone)]
pub struct Services {
    /// Base of AMD's service: before `/vcek/v1/…`.
    pub amd_kds: Base,
    /// Base of Intel's service: before `/tdx/certification/v4/…`.
    pub intel_pcs: Base,
    /// Whole URL of the revocation list of Intel's root.
    pub intel_root_crl: Base,
}

/// Base of a service's URLs: http or https, without login, query or fragment, and without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base(String);

impl Base {
    /// Parses it. Fails with what is wrong; what was given is not repeated, it may hold a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|problem| format!("is no URL: {problem}"))?;
        if !matches!(url.scheme(), "https" | "http") || url.host_str().is_none() {
            return Err("is neither an https nor an http URL".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("holds a login; these services have none".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(
                "holds a query or fragment; give what comes before the path of the service".to_owned()
            );
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }
}

/// How long to bear with a service.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How often one thing is asked for.
    pub attempts: u32,
    /// Pause before the second attempt; each further one is twice as long.
    pub pause: Duration,
    /// Longest pause that a service may ask for with Retry-After.
    pub longest_pause: Duration,
    /// Longest time for one attempt.
    pub attempt: Duration,
}

impl Default for Patience {
    /// Five attempts over about 15 s, unless the service asks for more time; it gets at most a minute.
    fn default() -> Self {
        Self {
            attempts: 5,
            pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
            attempt: Duration::from_secs(60),
        }
    }
}

/// An answer: its body, and Intel's header with the chain of the body's signer, still percent-encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The body, at most [`MAX_ANSWER`] bytes.
    pub body: Vec<u8>,
    /// The header.
    pub chain: Option<String>,
}

/// Why endorsements could not be collected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// No answer. Fault: environment.
    #[error("asked for {url}: no answer after {attempts} attempts: {problem}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// How often.
        attempts: u32,
        /// What happened the last time.
        problem: String,
    },
    /// The answer broke off. Fault: environment.
    #[error("asked for {url}: the answer broke off in each of {attempts} attempts: {problem}")]
    CutOff {
        /// What was asked for.
        url: String,
        /// How often.
        attempts: u32,
        /// What happened the last time.
        problem: String,
    },
    /// The service limits how often one may ask. Fault: environment.
    #[error("asked for {url}: status {status}, too many requests{}", after(*.retry_after))]
    RateLimited {
        /// What was asked for.
        url: String,
        /// Status of the answer.
        status: u16,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The service fails. Fault: environment.
    #[error("asked for {url}: status {status} in each of {attempts} attempts")]
    Failing {
        /// What was asked for.
        url: String,
        /// Status of the last answer.
        status: u16,
        /// How often it was asked.
        attempts: u32,
    },
    /// The service does not have it.
    #[error("asked for {url}: status {status}, wanted 200")]
    Refused {
        /// What was asked for.
        url: String,
        /// Status of the answer.
        status: u16,
    },
    /// More bytes than are read.
    #[error("asked for {url}: the answer has more than {MAX_ANSWER} bytes")]
    TooLarge {
        /// What was asked for.
        url: String,
    },
    /// Something else than was asked for came.
    #[error("asked for {url}: what came is not {wanted}: {problem}")]
    Form {
        /// What was asked for.
        url: String,
        /// What should have come.
        wanted: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A header is not there.
    #[error("asked for {url}: the answer has no header {header}, which holds its issuer's certificates")]
    NoChain {
        /// What was asked for.
        url: String,
        /// The header.
        header: &'static str,
    },
    /// Only the cache was to be looked at, and it does not have it.
    #[error("the cache has no answer of {url}")]
    NotCached {
        /// What was looked for.
        url: String,
    },
    /// The TLS stack does not start. Fault: environment.
    #[error("no HTTP client: {problem}")]
    Client {
        /// What is wrong.
        problem: String,
    },
    /// The framed endorsements are larger than anybody reads.
    #[error("the endorsements have {got} bytes together, at most {limit} are read")]
    Together {
        /// Bytes.
        got: usize,
        /// The limit.
        limit: usize,
    },
}

fn after(pause: Option<Duration>) -> String {
    pause.map_or_else(String::new, |pause| format!("; it wants to be asked again in {} s", pause.as_secs()))
}

impl FetchError {
    /// What to do, in a sentence.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } | Self::CutOff { .. } | Self::Failing { .. } => {
                "check the network and the service's state, then ask again; what the cache has is taken with --cached, and another source is named with --amd-kds, --intel-pcs and --intel-root-crl"
            }
            Self::RateLimited { .. } => {
                "ask again later; what came already is in the cache and not asked for again"
            }
            Self::Refused { .. } => {
                "the service does not know this chip, TCB or FMSPC, or the base URL is of another service: check --amd-kds, --intel-pcs and --intel-root-crl"
            }
            Self::TooLarge { .. } | Self::Form { .. } | Self::NoChain { .. } | Self::Together { .. } => {
                "something else than the vendor's service answers, or a proxy changes what it says: check the base URLs"
            }
            Self::NotCached { .. } => "leave out --cached, so that the service is asked",
            Self::Client { .. } => "check the system's root certificates",
        }
    }
}

/// Where an answer came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// What was asked for.
    pub url: String,
    /// When the service said it; `None` when it did just now.
    pub cached: Option<Timestamp>,
}

/// Endorsements of one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    /// A name that says what they are about: `amd-milan-<chip>-<TCB>.pem`, `intel-<FMSPC>-<CA>.tdx`.
    pub file_name: String,
    /// AMD: PEM blocks. Intel: framed TDX endorsements.
    pub bytes: Vec<u8>,
    /// What was asked for.
    pub asked: Vec<Asked>,
}

/// Collects endorsements.
pub struct Collector {
    services: Services,
    service: Service,
}

impl Collector {
    /// `cached_only` asks nobody: what the cache has is taken, whatever its age.
    pub fn new(
        services: Services,
        cache: Option<Cache>,
        patience: Patience,
        cached_only: bool,
        now: Timestamp,
    ) -> Result<Self, FetchError> {
        Ok(Self { services, service: Service::new(cache, patience, cached_only, now)? })
    }

    /// Asks for all that one platform needs. What never changes (certificates) comes from the cache where it is there; what
    /// ages (revocation lists, TCB info, QE identity) is asked for each time.
    ///
    /// Cancel safe: what has come is in the cache.
    pub async fn collect(&self, wanted: &WantedEndorsements) -> Result<Collected, FetchError> {
        match wanted {
            WantedEndorsements::Amd(wanted) => amd::collect(&self.service, &self.services, wanted).await,
            WantedEndorsements::Intel(wanted) => intel::collect(&self.service, &self.services, wanted).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_are_plain_urls() {
        assert_eq!(Base::parse("https://a.example/x/"), Ok(Base("https://a.example/x".to_owned())));
        assert_eq!(Base::parse("http://127.0.0.1:1"), Ok(Base("http://127.0.0.1:1".to_owned())));
        for bad in ["", "a.example", "ftp://a/", "https://u:secret@a/", "https://a/?x", "https://a/#x"] {
            let problem = Base::parse(bad).expect_err("bad");
            assert!(!problem.contains("secret"), "{problem}");
        }
    }
}
