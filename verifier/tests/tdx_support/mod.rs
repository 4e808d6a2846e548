//! Vectors of TDX and a policy for them: one complete text, of which a test changes one line.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test file uses its own part")]

#[path = "../../../tests/src/vectors/folder.rs"]
mod folder;
#[path = "../../../tests/src/policy_text.rs"]
mod policy_text;

use std::fs;
use std::path::Path;

use provenance::evidence::{Evidence, Platform};
use provenance::tdx_endorsements::TdxEndorsements;
use provenance::timestamp::Timestamp;
use serde_json::Value;
use verifier::policy::TdxRegister;
use verifier::tdx::AuthenticQuote;
use verifier::{Endorsements, Policy, Reason};

pub use folder::folder as vectors;
pub use policy_text::PolicyText;

const COMPLETE: &str = r#"[hardware]
platforms = ["tdx"]
evidence = ["hardware"]
roots = ["intel-sgx"]
revocation = "crl-required"

[tdx]
tcb_statuses = ["UpToDate"]
minimum_tcb_evaluation_data_number = 1
modules = "endorsed"
attributes_allowed = []
xfam_allowed = 0x61ae7
allow_td_1_0 = true

[[reference_values]]
name = "sealwright test guest"
guest_version = 1
platform = "tdx"
mrtd = "MRTD"
mrconfigid = "MRCONFIGID"
mrowner = "MROWNER"
mrownerconfig = "MROWNERCONFIG"
rtmr0 = "RTMR0"
rtmr1 = "RTMR1"
rtmr2 = "RTMR2"
rtmr3 = "RTMR3"
"#;

impl PolicyText {
    /// The strict default, with the registers that a case expects.
    pub fn for_case(case: &Case) -> Self {
        TdxRegister::ALL.into_iter().fold(Self::of_nobody(COMPLETE), |text, register| {
            let wanted = case.0["expected"][register.name()].as_str().expect("a register");
            text.with(&format!("\"{register}\""), &format!("\"{wanted}\""))
        })
    }

    /// The strict default with zeros in all registers, for tests of the policy alone.
    pub fn zero() -> Self {
        TdxRegister::ALL.into_iter().fold(Self::of_nobody(COMPLETE), |text, register| {
            text.with(&format!("\"{register}\""), &format!("\"{}\"", "00".repeat(48)))
        })
    }
}

fn read(dir: &Path, path: &str) -> Vec<u8> {
    fs::read(dir.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A case of the index.
pub struct Case(pub Value);

/// All cases of TDX.
pub fn cases(dir: &Path) -> Vec<Case> {
    let index: Value = serde_json::from_slice(&read(dir, "index.json")).expect("JSON");
    let cases: Vec<_> = index["cases"]
        .as_array()
        .expect("cases")
        .iter()
        .filter(|case| case["platform"] == "tdx")
        .cloned()
        .map(Case)
        .collect();
    assert!(cases.len() >= 18, "{} TDX cases", cases.len());
    cases
}

/// One case.
pub fn case(dir: &Path, id: &str) -> Case {
    cases(dir).into_iter().find(|case| case.id() == id).unwrap_or_else(|| panic!("no case {id}"))
}

impl Case {
    pub fn id(&self) -> &str {
        self.0["id"].as_str().expect("an id")
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::parse(self.0["now"].as_str().expect("a time")).expect("a time")
    }

    pub fn input(&self, dir: &Path, name: &str) -> Option<Vec<u8>> {
        self.0["inputs"][name].as_str().map(|path| read(dir, path))
    }

    pub fn quote(&self, dir: &Path) -> Vec<u8> {
        self.input(dir, "quote").expect("a quote")
    }

    /// The collateral in the form that it travels in: Intel's answers put together again around the exact inner
    /// value, revocation lists as DER.
    pub fn endorsements(&self, dir: &Path) -> Option<TdxEndorsements> {
        let collateral: Value = serde_json::from_slice(&self.input(dir, "collateral")?).expect("JSON");
        let text = |name: &str| collateral[name].as_str().unwrap_or_else(|| panic!("no {name}")).to_owned();
        let answer = |key: &str, name: &str| {
            let signature = text(&format!("{name}_signature"));
            format!("{{\"{key}\":{},\"signature\":\"{signature}\"}}", text(name)).into_bytes()
        };
        let der = |name: &str| hex::decode(text(name)).expect("hex");
        Some(TdxEndorsements {
            tcb_info: answer("tcbInfo", "tcb_info"),
            tcb_info_issuer_chain: text("tcb_info_issuer_chain").into_bytes(),
            qe_identity: answer("enclaveIdentity", "qe_identity"),
            qe_identity_issuer_chain: text("qe_identity_issuer_chain").into_bytes(),
            root_ca_crl: der("root_ca_crl"),
            pck_crl: der("pck_crl"),
        })
    }

    /// Evidence as a bundle carries it.
    pub fn evidence(&self, dir: &Path) -> Evidence {
        let endorsements = self.endorsements(dir).map(|endorsements| endorsements.encode());
        Evidence {
            platform: Platform::Tdx,
            report: self.quote(dir),
            endorsements: endorsements.unwrap_or_default(),
        }
    }

    /// The strict default policy of the vectors, with what the case widens.
    pub fn policy(&self) -> PolicyText {
        let text = PolicyText::for_case(self);
        match self.0["policy"]["allow_tcb_status"].as_array() {
            Some(statuses) => text.with(
                "tcb_statuses = [\"UpToDate\"]",
                &format!("tcb_statuses = {}", Value::from(statuses.clone())),
            ),
            None => text,
        }
    }
}

/// Judges Evidence through the public functions.
pub fn judge(evidence: &Evidence, policy: &Policy, now: Timestamp) -> Result<AuthenticQuote, Reason> {
    let authentic = verifier::authenticate(evidence, &Endorsements::default(), policy.anchors(), now)?;
    let quote = authentic.tdx().expect("a TDX quote").clone();
    verifier::appraise(authentic, policy)?;
    Ok(quote)
}
