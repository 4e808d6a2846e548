//! Comparing an authentic quote with a policy: what the guest measured into its virtual TPM. The paravisor itself is
//! compared as every SEV-SNP report or TDX quote is.

use std::collections::BTreeMap;

use super::AuthenticQuote;
use crate::policy::Placed;
use crate::snp::AuthenticReport;

/// Why an authentic quote is refused. `line` is the line of the policy that refuses it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AzureRefusal {
    /// The policy pins no PCR, so that any guest would do.
    #[error("policy pins no PCR, so any guest behind the paravisor would be accepted")]
    NothingPinned {
        /// Line of the policy.
        line: usize,
    },
    /// The quote is not over a PCR that the policy pins.
    #[error("TPM quote is not over PCR {index}, which the policy pins")]
    NotQuoted {
        /// The PCR.
        index: usize,
        /// Line of the policy.
        line: usize,
    },
    /// A PCR has another value.
    #[error("PCR {index} is {got}, policy accepts {}", .wanted.join(", "))]
    Pcr {
        /// The PCR.
        index: usize,
        /// Value seen, hex.
        got: String,
        /// Values accepted, hex.
        wanted: Vec<String>,
        /// Line of the policy.
        line: usize,
    },
}

impl AzureRefusal {
    /// Line of the policy that refuses.
    #[must_use]
    pub fn line(&self) -> usize {
        match self {
            Self::NothingPinned { line } | Self::NotQuoted { line, .. } | Self::Pcr { line, .. } => *line,
        }
    }
}

/// Values accepted for each PCR that a policy pins.
pub type PinnedPcrs = BTreeMap<usize, Vec<[u8; 32]>>;

/// A quote whose PCRs the policy accepts. The report or quote of the hardware in it is not judged by that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedQuote<Hardware = AuthenticReport>(AuthenticQuote<Hardware>);

impl<Hardware> AcceptedQuote<Hardware> {
    /// The quote.
    #[must_use]
    pub fn authentic(&self) -> &AuthenticQuote<Hardware> {
        &self.0
    }
}

/// Compares the PCRs of a quote with those that a policy pins. A PCR without a value accepts nothing.
pub fn appraise_pcrs<Hardware>(
    quote: AuthenticQuote<Hardware>,
    pinned: &Placed<PinnedPcrs>,
) -> Result<AcceptedQuote<Hardware>, AzureRefusal> {
    let line = pinned.line;
    if pinned.value.is_empty() {
        return Err(AzureRefusal::NothingPinned { line });
    }
    for (index, accepted) in &pinned.value {
        let index = *index;
        let got = quote.pcr(index).ok_or(AzureRefusal::NotQuoted { index, line })?;
        if !accepted.contains(got) {
            let wanted = accepted.iter().map(hex::encode).collect();
            return Err(AzureRefusal::Pcr { index, got: hex::encode(got), wanted, line });
        }
    }
    Ok(AcceptedQuote(quote))
}
