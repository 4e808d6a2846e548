//! Cases as the verifier's functions take them, for those who call these functions themselves.

#![allow(dead_code, unreachable_pub, reason = "also included by tests that export nothing and need the rest")]

use std::path::Path;

use provenance::evidence::Evidence;
use provenance::timestamp::Timestamp;
use verifier::{Endorsements, Policy, Reason};

use super::input::Inputs;
use super::secure_execution::{RecordedAnswer, RecordedDocument};
use super::{Case, Index, Platform, snp, tdx};

/// One case of SEV-SNP or TDX.
pub struct Prepared {
    /// Its id.
    pub id: String,
    /// Report or quote, with its endorsements.
    pub evidence: Evidence,
    /// The strict default, with what the case changes.
    pub policy: Policy,
    /// The time to judge at.
    pub now: Timestamp,
}

impl Prepared {
    /// What the verifier says: authentic, and accepted by the policy.
    pub fn judge(&self) -> Result<(), Reason> {
        let none = Endorsements::default();
        let authentic = verifier::authenticate(&self.evidence, &none, self.policy.anchors(), self.now)?;
        verifier::appraise(authentic, &self.policy)?;
        Ok(())
    }
}

fn index_of(folder: &Path) -> Result<Index, String> {
    let path = folder.join("index.json");
    let index = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&index).map_err(|error| error.to_string())
}

/// The cases of one platform, by what `read` makes of them, with their ids.
fn recorded<T>(
    folder: &Path,
    platform: Platform,
    read: fn(&mut Inputs<'_>) -> Result<T, String>,
) -> Result<Vec<(String, T)>, String> {
    let index = index_of(folder)?;
    let cases = index.cases.iter().filter(|case| case.platform == platform);
    cases.map(|case| Ok((case.id.clone(), read(&mut Inputs::new(folder, &index.files, case))?))).collect()
}

/// The answers to attestation requests of Secure Execution, in order.
pub fn recorded_answers(folder: &Path) -> Result<Vec<(String, RecordedAnswer)>, String> {
    recorded(folder, Platform::Se, RecordedAnswer::read)
}

/// The host key documents of Secure Execution, in order.
pub fn recorded_documents(folder: &Path) -> Result<Vec<(String, RecordedDocument)>, String> {
    recorded(folder, Platform::SeHkd, RecordedDocument::read)
}

/// The SEV-SNP and TDX cases of a folder that are judged at a time, in order.
pub fn prepare(folder: &Path) -> Result<Vec<Prepared>, String> {
    let index = index_of(folder)?;
    let prepare = |case: &Case| -> Option<Result<Prepared, String>> {
        let mut inputs = Inputs::new(folder, &index.files, case);
        inputs.optional_now()?;
        let mut evidence_and_policy = || match case.platform {
            Platform::Snp => {
                let evidence = snp::evidence(&mut inputs)?;
                let policy = snp::policy_for(&mut inputs, &evidence)?;
                Ok(Some((evidence, policy, inputs.now()?)))
            }
            Platform::Tdx => {
                let evidence = tdx::evidence(&mut inputs)?;
                let policy = tdx::policy_for(&mut inputs, &evidence)?;
                Ok(Some((evidence, policy, inputs.now()?)))
            }
            Platform::Se | Platform::SeHkd | Platform::AzSnp => Ok(None),
        };
        let (evidence, policy, now) = match evidence_and_policy().transpose()? {
            Ok(parts) => parts,
            Err(problem) => return Some(Err(problem)),
        };
        Some(Ok(Prepared { id: case.id.clone(), evidence, policy, now }))
    };
    index.cases.iter().filter_map(prepare).collect()
}
