//! What an epoch secret is sealed under.

use provenance::evidence::Platform;
use provenance::instance::KeyOrigin;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Length of a sealing root in bytes.
const ROOT_LEN: usize = 32;
/// Lengths of a [`RootMeasurement`] in bytes.
const MEASUREMENT_LENS: [usize; 3] = [32, 48, 64];

/// Key material that the hardware gives only to this guest. It is no key of ours: everything is derived from it
/// with a label.
///
/// `Debug`, `Clone` and `Serialize` are left out, so that it can be neither logged nor copied nor sent.
pub struct SealingRoot {
    key: Zeroizing<[u8; ROOT_LEN]>,
    under: SealedUnder,
}

impl SealingRoot {
    /// `key`: 32 secret bytes, uniformly random to everyone but guests for whom all of `under` is the same. A
    /// platform secret of another length or shape goes through a hash or HKDF first.
    #[must_use]
    pub fn new(key: Zeroizing<[u8; 32]>, under: SealedUnder) -> Self {
        Self { key, under }
    }

    /// What the hardware mixed into the key.
    #[must_use]
    pub fn under(&self) -> &SealedUnder {
        &self.under
    }

    pub(crate) fn key(&self) -> &[u8; ROOT_LEN] {
        &self.key
    }
}

/// What a sealing root depends on. It is the header of the sealed file, in the clear: it lets "another TCB" be
/// told apart from "damaged". When any of it is another, the root is another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedUnder {
    /// Guest policy (SEV-SNP ABI 56860, table 9); `None` where the platform has none (Secure Execution).
    #[serde(with = "policy_hex")]
    pub guest_policy: Option<u64>,
    /// Where the root comes from.
    pub kind: RootKind,
    /// The guest that it is given to.
    pub measurement: RootMeasurement,
    /// The platform.
    pub platform: Platform,
    /// TCB_VERSION named in the request for the key: 8 bytes as they stand in a report (SEV-SNP ABI 56860, table 3);
    /// `None` where the root does not depend on a TCB (Secure Execution).
    #[serde(with = "tcb_hex")]
    pub tcb: Option<[u8; 8]>,
}

/// The kind of a sealing root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootKind {
    /// SEV-SNP: MSG_KEY_REQ with root VCEK and bits POLICY, MEASUREMENT, GUEST_SVN, TCB_VERSION.
    VcekDerivedKey,
    /// Secure Execution: a secret inside the encrypted image.
    ImageSecret,
    /// Secure Execution: a secret that the owner adds at each boot and the guest reads back (IBM z17).
    RetrievableSecret,
    /// A fixture. NOT HARDWARE: everybody can know it.
    DangerousSoftware,
}

impl RootKind {
    /// What the instance document says of keys that are sealed under such a root.
    #[must_use]
    pub fn key_origin(self) -> KeyOrigin {
        match self {
            Self::VcekDerivedKey => KeyOrigin::SnpDerivedKey,
            Self::ImageSecret => KeyOrigin::SecureExecutionImageSecret,
            Self::RetrievableSecret => KeyOrigin::SecureExecutionRetrievableSecret,
            Self::DangerousSoftware => KeyOrigin::DangerousSoftware,
        }
    }
}

impl std::fmt::Display for RootKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::VcekDerivedKey => "key derived from the VCEK",
            Self::ImageSecret => "secret of the image",
            Self::RetrievableSecret => "retrievable secret",
            Self::DangerousSoftware => "NOT HARDWARE",
        })
    }
}

/// What names the guest that a root is given to: the launch measurement of 48 bytes (SEV-SNP), or on Secure
/// Execution, where a guest cannot read its own header, the 32 bytes of the secret's id or the 64 bytes of a digest.
/// In JSON lower-case hex.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RootMeasurement(Vec<u8>);

/// Not the measurement of a sealing root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRootMeasurement {
    /// Another length.
    #[error("measurement of a sealing root has {got} bytes, wanted 32, 48 or 64")]
    Length {
        /// Length seen in bytes.
        got: usize,
    },
    /// Not lower-case hex.
    #[error("measurement of a sealing root is not lower-case hex")]
    Hex,
}

impl RootMeasurement {
    /// From 32, 48 or 64 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidRootMeasurement> {
        if MEASUREMENT_LENS.contains(&bytes.len()) {
            Ok(Self(bytes.to_vec()))
        } else {
            Err(InvalidRootMeasurement::Length { got: bytes.len() })
        }
    }
}

impl TryFrom<String> for RootMeasurement {
    type Error = InvalidRootMeasurement;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if !is_lower_hex(&text) {
            return Err(InvalidRootMeasurement::Hex);
        }
        Self::from_bytes(&hex::decode(&text).map_err(|_| InvalidRootMeasurement::Hex)?)
    }
}

impl From<RootMeasurement> for String {
    fn from(measurement: RootMeasurement) -> Self {
        hex::encode(measurement.0)
    }
}

impl std::fmt::Display for RootMeasurement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl std::fmt::Debug for RootMeasurement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RootMeasurement({self})")
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// 8 bytes as 16 lower-case hex digits, or `null`.
mod tcb_hex {
    use serde::{Deserialize as _, Serialize as _};

    pub(super) fn serialize<S: serde::Serializer>(
        tcb: &Option<[u8; 8]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        tcb.map(hex::encode).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<[u8; 8]>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let mut bytes = [0; 8];
        match hex::decode_to_slice(&text, &mut bytes) {
            Ok(()) if super::is_lower_hex(&text) => Ok(Some(bytes)),
            _ => Err(serde::de::Error::custom("wanted 16 lower-case hex digits")),
        }
    }
}

/// A 64-bit number as 16 lower-case hex digits (JSON numbers end at 2^53), or `null`.
mod policy_hex {
    pub(super) fn serialize<S: serde::Serializer>(
        policy: &Option<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        super::tcb_hex::serialize(&policy.map(u64::to_be_bytes), serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u64>, D::Error> {
        Ok(super::tcb_hex::deserialize(deserializer)?.map(u64::from_be_bytes))
    }
}
