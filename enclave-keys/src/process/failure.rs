//! Why a question was not answered, as it travels.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::frame::MAX_ANSWER;
use crate::error::{KeyError, StartError};

/// Why the key process gave no answer. Nothing was signed then, or nothing that went out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
#[non_exhaustive]
pub enum KeyFailure {
    /// Too many wait already.
    #[error("too many wait for Evidence; try again in {retry_after_millis} ms")]
    Busy {
        /// When to try again, in milliseconds.
        retry_after_millis: u64,
    },
    /// The device gave no Evidence, or Evidence of something else.
    #[error("{message}")]
    NoEvidence {
        /// What was seen and wanted.
        message: String,
    },
    /// The challenge is not one that this guest answers.
    #[error("{message}")]
    Challenge {
        /// What was seen and wanted.
        message: String,
    },
    /// What was asked for contradicts itself or this instance.
    #[error("{message}")]
    Refused {
        /// What was seen and wanted.
        message: String,
    },
    /// Another instance runs than the one asked for.
    #[error(
        "the key process serves an instance with other configuration or programs; an instance lasts as long as the \
         guest runs: start the guest anew"
    )]
    OtherInstance {},
    /// The instance could not start.
    #[error("{message}")]
    NotStarted {
        /// What was seen and wanted.
        message: String,
    },
    /// The answer is longer than is read. Signatures in it have not gone out.
    #[error(
        "the answer has {got} bytes, at most {MAX_ANSWER} are read: too many images under too long names"
    )]
    AnswerTooLong {
        /// Its length in bytes.
        got: u64,
    },
    /// A message that is none of ours.
    #[error("between build-server and the key process: {message}")]
    Protocol {
        /// What was seen.
        message: String,
    },
    /// The key process has ended: nothing is signed any more in this boot.
    #[error("the key process has ended, so nothing is signed any more; start the guest anew")]
    Stopped {},
}

impl KeyFailure {
    /// When to try again, where that helps.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after_millis } => Some(Duration::from_millis(*retry_after_millis)),
            _ => None,
        }
    }

    pub(super) fn protocol(problem: &dyn std::fmt::Display) -> Self {
        Self::Protocol { message: problem.to_string() }
    }
}

impl From<KeyError> for KeyFailure {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Busy { retry_after } => {
                Self::Busy { retry_after_millis: u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX) }
            }
            KeyError::Stopped => Self::Stopped {},
            KeyError::Attester(_)
            | KeyError::OwnReport(_)
            | KeyError::DeviceTimeout { .. }
            | KeyError::NoRandom(_) => Self::NoEvidence { message: error.to_string() },
            KeyError::Challenge { .. } | KeyError::AttestationRequest(_) => {
                Self::Challenge { message: error.to_string() }
            }
            _ => Self::Refused { message: error.to_string() },
        }
    }
}

impl From<StartError> for KeyFailure {
    fn from(error: StartError) -> Self {
        Self::NotStarted { message: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attester::{AttesterError, ChallengeKind};
    use provenance::evidence::Platform;

    #[test]
    fn every_kind_of_error_travels_as_its_own() {
        let no_evidence = AttesterError::NoProvider { path: "/sys/kernel/config/tsm".into() };
        let wanted = ChallengeKind::AttestationRequest;
        let challenge = KeyError::Challenge { platform: Platform::SecureExecution, wanted };
        for (error, kind) in [
            (KeyError::Busy { retry_after: Duration::from_millis(7) }, "Busy"),
            (KeyError::Stopped, "Stopped"),
            (KeyError::Attester(no_evidence), "NoEvidence"),
            (KeyError::DeviceTimeout { after: Duration::from_secs(1) }, "NoEvidence"),
            (challenge, "Challenge"),
            (KeyError::TooManyImages { got: 65 }, "Refused"),
        ] {
            let message = error.to_string();
            let failure = KeyFailure::from(error);
            let shown = format!("{failure:?}");
            assert_eq!(shown.split([' ', '{']).next(), Some(kind), "{shown}");
            let delay = (kind == "Busy").then_some(Duration::from_millis(7));
            assert_eq!(failure.retry_after(), delay, "{shown}");
            if !matches!(kind, "Busy" | "Stopped") {
                assert_eq!(failure.to_string(), message);
            }
        }
    }
}
