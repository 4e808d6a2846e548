//! TDX Evidence under a fixture root: everything that Intel, the Quoting Enclave and the TDX module sign, made from a
//! recipe that a test changes in one place. NOT HARDWARE.
//!
//! The verifier's own tests include this file by its path, so it names nothing else of this crate.

#![allow(unreachable_pub, dead_code, reason = "included by test files, which each use a part")]

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provenance::digest::Sha256Digest;
use provenance::evidence::{Evidence, Platform};
use provenance::tdx_endorsements::TdxEndorsements;
use provenance::timestamp::Timestamp;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, CustomExtension,
    DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use verifier::tdx::quote::{BODY_1_0_LEN, BODY_1_5_LEN, QE_REPORT_LEN, body, qe_report};

/// The time at which everything of the usual recipe is valid.
pub const NOW: &str = "2026-03-01T00:00:00Z";
/// Serial number of the root.
pub const ROOT_SERIAL: u64 = 1;
/// Serial number of the CA that issues PCK certificates.
pub const PCK_CA_SERIAL: u64 = 2;
/// Serial number of the PCK certificate.
pub const PCK_SERIAL: u64 = 3;
/// Serial number of the signer of TCB info and QE identity.
pub const SIGNER_SERIAL: u64 = 4;

/// 2026-01-01T00:00:00Z.
const NEW_YEAR: u64 = 1_767_225_600;
const DAY: u64 = 86_400;

/// What to make. Names are those of Intel's certificates.
pub struct Recipe {
    /// Common name of the root.
    pub root_name: &'static str,
    /// Common name of the CA that issues PCK certificates.
    pub pck_ca_name: &'static str,
    /// Common name of the PCK certificate.
    pub pck_name: &'static str,
    /// Common name of the signer of TCB info and QE identity.
    pub signer_name: &'static str,
    /// Serial numbers on the root's revocation list.
    pub revoked_by_root: Vec<u64>,
    /// Serial numbers on the PCK CA's revocation list.
    pub revoked_by_pck_ca: Vec<u64>,
    /// thisUpdate and nextUpdate of both revocation lists, seconds since 1970.
    pub crl_updates: (u64, u64),
    /// Serial number of a certificate that is no longer valid.
    pub expired: Option<u64>,
    /// Contents of the SGX extension; `None` leaves it out.
    pub sgx_extension: Option<Vec<u8>>,
    /// Kind of the PCK.
    pub pck_key: &'static rcgen::SignatureAlgorithm,
    /// Whether the PCK CA may issue certificates.
    pub pck_ca_is_ca: bool,
    /// Version of the quote: 4, whose body must be TD 1.0, or 5.
    pub version: u8,
    /// Reserved bytes of the quote's header.
    pub header_reserved: [u8; 4],
    /// Body of the quote: 584 bytes for TD 1.0, 648 for TD 1.5.
    pub body: Vec<u8>,
    /// Report of the Quoting Enclave without its report data, 384 bytes.
    pub qe_report: Vec<u8>,
    /// Intel's word on the platform.
    pub tcb_info: Value,
    /// Intel's word on the Quoting Enclave.
    pub qe_identity: Value,
    /// What follows the quote.
    pub padding: Vec<u8>,
    /// Whether the documents' chains end in another root.
    pub documents_of_other_root: bool,
}

/// What was made.
pub struct Made {
    /// Quote and endorsements.
    pub evidence: Evidence,
    /// SHA-256 of the root's SPKI.
    pub root: Sha256Digest,
}

/// The private keys of a fixture PKI and of its one platform.
pub struct Keys {
    root: KeyPair,
    pck_ca: KeyPair,
    signer: KeyPair,
    pck: KeyPair,
    attestation: KeyPair,
}

impl Keys {
    /// New keys; the PCK of this kind, the others P-256.
    pub fn generate(pck: &'static rcgen::SignatureAlgorithm) -> Self {
        let pck = KeyPair::generate_for(pck).expect("a key");
        Self { root: p256(), pck_ca: p256(), signer: p256(), pck, attestation: p256() }
    }

    /// Each key as PKCS #8 DER, for [`Self::from_pkcs8`].
    pub fn to_pkcs8(&self) -> [Vec<u8>; 5] {
        [&self.root, &self.pck_ca, &self.signer, &self.pck, &self.attestation].map(KeyPair::serialize_der)
    }

    /// Keys that [`Self::to_pkcs8`] gave; `None` when they are none.
    pub fn from_pkcs8(keys: [Vec<u8>; 5]) -> Option<Self> {
        let [root, pck_ca, signer, pck, attestation] = keys.map(|der| KeyPair::try_from(der).ok());
        Some(Self { root: root?, pck_ca: pck_ca?, signer: signer?, pck: pck?, attestation: attestation? })
    }

    /// SHA-256 of the root's SPKI, by which a policy names it under a `dangerous_…` key.
    pub fn root_spki_sha256(&self) -> Sha256Digest {
        Sha256Digest::of(&spki(&self.root))
    }
}

/// What the authorities of a PKI give out for its one platform.
pub struct Issued {
    /// PCK certificate, its CA and the root, PEM, as it stands in quotes.
    pub pck_chain: Vec<u8>,
    /// TCB info, QE identity and both revocation lists.
    pub endorsements: TdxEndorsements,
}

/// DER of a value with this tag.
pub fn der(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        Ok(one) => out.extend([0x81, one]),
        Err(_) => {
            out.push(0x82);
            out.extend(u16::try_from(length).expect("small").to_be_bytes());
        }
    }
    out.extend(contents);
    out
}

/// `SEQUENCE { id below 1.2.840.113741.1.13.1, value }`.
pub fn entry(id: &[u8], value: Vec<u8>) -> Vec<u8> {
    let oid = [&[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01], id].concat();
    der(0x30, &[der(0x06, &oid), value].concat())
}

/// Entries of the SGX extension, each to be changed: PPID, TCB, PCEID, FMSPC, SGX type.
pub fn sgx_entries() -> Vec<Vec<u8>> {
    let mut tcb: Vec<u8> = (1..=16).flat_map(|component| entry(&[2, component], der(0x02, &[7]))).collect();
    tcb.extend(entry(&[2, 17], der(0x02, &[11])));
    tcb.extend(entry(&[2, 18], der(0x04, &[7; 16])));
    vec![
        entry(&[1], der(0x04, &[1; 16])),
        entry(&[2], der(0x30, &tcb)),
        entry(&[3], der(0x04, &[0; 2])),
        entry(&[4], der(0x04, &[0xab; 6])),
        entry(&[5], der(0x0a, &[0])),
    ]
}

/// The SGX extension of these entries.
pub fn sgx_extension(entries: &[Vec<u8>]) -> Vec<u8> {
    der(0x30, &entries.concat())
}

fn level(tcb: &Value, status: &str) -> Value {
    json!({ "tcb": tcb, "tcbDate": "2024-11-13T00:00:00Z", "tcbStatus": status })
}

impl Default for Recipe {
    fn default() -> Self {
        let mut body = vec![0; BODY_1_5_LEN];
        body[body::TDATTRIBUTES + 3] = 0x10;
        body[body::XFAM] = 0xe7;
        for field in [body::TEE_TCB_SVN, body::TEE_TCB_SVN2] {
            body[field..field + 3].copy_from_slice(&[6, 1, 8]);
        }
        let mut qe_report = vec![0; QE_REPORT_LEN];
        qe_report[qe_report::ISVPRODID] = 2;
        qe_report[qe_report::ISVSVN] = 4;
        let zeros = |bytes: usize| "00".repeat(bytes);
        let module =
            json!({ "mrsigner": zeros(48), "attributes": zeros(8), "attributesMask": "FF".repeat(8) });
        let mut module_1 = module.clone();
        module_1["id"] = json!("TDX_01");
        module_1["tcbLevels"] = json!([level(&json!({ "isvsvn": 6 }), "UpToDate")]);
        let components = vec![json!({ "svn": 0 }); 16];
        let platform =
            json!({ "sgxtcbcomponents": components, "pcesvn": 11, "tdxtcbcomponents": components });
        Self {
            root_name: "Intel SGX Root CA",
            pck_ca_name: "Intel SGX PCK Platform CA",
            pck_name: "Intel SGX PCK Certificate",
            signer_name: "Intel SGX TCB Signing",
            revoked_by_root: vec![99],
            revoked_by_pck_ca: vec![99],
            crl_updates: (NEW_YEAR, NEW_YEAR + 90 * DAY),
            expired: None,
            sgx_extension: Some(sgx_extension(&sgx_entries())),
            pck_key: &PKCS_ECDSA_P256_SHA256,
            pck_ca_is_ca: true,
            version: 5,
            header_reserved: [0; 4],
            body,
            qe_report,
            tcb_info: json!({
                "id": "TDX", "version": 3,
                "issueDate": "2026-02-18T00:00:00Z", "nextUpdate": "2026-03-20T00:00:00Z",
                "fmspc": "ABABABABABAB", "pceId": "0000", "tcbType": 0, "tcbEvaluationDataNumber": 18,
                "tdxModule": module, "tdxModuleIdentities": [module_1],
                "tcbLevels": [level(&platform, "UpToDate")],
            }),
            qe_identity: json!({
                "id": "TD_QE", "version": 2,
                "issueDate": "2026-02-18T00:00:00Z", "nextUpdate": "2026-03-20T00:00:00Z",
                "tcbEvaluationDataNumber": 18,
                "miscselect": zeros(4), "miscselectMask": "FF".repeat(4),
                "attributes": zeros(16), "attributesMask": "FF".repeat(16),
                "mrsigner": zeros(32), "isvprodid": 2,
                "tcbLevels": [level(&json!({ "isvsvn": 4 }), "UpToDate")],
            }),
            padding: Vec::new(),
            documents_of_other_root: false,
        }
    }
}

fn params(name: &str, serial: u64, ca: bool, expired: Option<u64>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, "NOT HARDWARE");
    params.serial_number = Some(SerialNumber::from(serial));
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(if expired == Some(serial) { 2026 } else { 2040 }, 1, 1);
    if ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    }
    params
}

fn crl(issuer: &Issuer<'_, &KeyPair>, revoked: &[u64], updates: (u64, u64)) -> Vec<u8> {
    let revoked_certs = revoked
        .iter()
        .map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2025, 1, 1),
            reason_code: None,
            invalidity_date: None,
        })
        .collect();
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(1970, 1, 1) + Duration::from_secs(updates.0),
        next_update: date_time_ymd(1970, 1, 1) + Duration::from_secs(updates.1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).expect("a CRL").der().to_vec()
}

fn pem(certificates: &[&Certificate]) -> Vec<u8> {
    let mut out = String::new();
    for certificate in certificates {
        let body = STANDARD.encode(certificate.der());
        out.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in body.as_bytes().chunks(64) {
            out.push_str(std::str::from_utf8(line).expect("base64"));
            out.push('\n');
        }
        out.push_str("-----END CERTIFICATE-----\n");
    }
    out.into_bytes()
}

/// R ‖ S over a message.
fn sign(key: &KeyPair, message: &[u8]) -> Vec<u8> {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der(), &random)
        .expect("a P-256 key");
    key.sign(&random, message).expect("a signature").as_ref().to_vec()
}

fn p256() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key")
}

/// An answer of Intel's service: the signed value and its signature.
fn answer(key: &str, document: &Value, signer: &KeyPair) -> Vec<u8> {
    let text = document.to_string();
    let signature = hex::encode(sign(signer, text.as_bytes()));
    format!("{{\"{key}\":{text},\"signature\":\"{signature}\"}}").into_bytes()
}

impl Recipe {
    /// The usual recipe with everything that ages made now, to be valid for the 30 days that Intel gives.
    pub fn at(now: Timestamp) -> Self {
        let seconds = u64::try_from(now.unix()).expect("after 1970");
        // Clocks differ a little.
        let updates = (seconds - DAY, seconds + 30 * DAY);
        let text = |seconds: u64| {
            let seconds = i64::try_from(seconds).expect("near now");
            json!(Timestamp::from_unix(seconds).expect("near now").to_string())
        };
        let mut recipe = Self { crl_updates: updates, ..Self::default() };
        for document in [&mut recipe.tcb_info, &mut recipe.qe_identity] {
            document["issueDate"] = text(updates.0);
            document["nextUpdate"] = text(updates.1);
        }
        recipe
    }

    /// Makes Evidence by the recipe under a root of its own.
    pub fn make(&self) -> Made {
        let keys = Keys::generate(self.pck_key);
        let issued = self.issue(&keys);
        let evidence = Evidence {
            platform: Platform::Tdx,
            report: self.quote(&keys, &issued.pck_chain),
            endorsements: issued.endorsements.encode(),
        };
        Made { evidence, root: keys.root_spki_sha256() }
    }

    /// What the authorities with these keys give out.
    pub fn issue(&self, keys: &Keys) -> Issued {
        let root_params = params(self.root_name, ROOT_SERIAL, true, self.expired);
        let root = root_params.self_signed(&keys.root).expect("a certificate");
        let root_issuer = Issuer::from_params(&root_params, &keys.root);
        let ca_params = params(self.pck_ca_name, PCK_CA_SERIAL, self.pck_ca_is_ca, self.expired);
        let ca = ca_params.signed_by(&keys.pck_ca, &root_issuer).expect("a certificate");
        let ca_issuer = Issuer::from_params(&ca_params, &keys.pck_ca);
        let mut pck_params = params(self.pck_name, PCK_SERIAL, false, self.expired);
        if let Some(extension) = &self.sgx_extension {
            let oid = [1, 2, 840, 113_741, 1, 13, 1];
            pck_params.custom_extensions = vec![CustomExtension::from_oid_content(&oid, extension.clone())];
        }
        let pck = pck_params.signed_by(&keys.pck, &ca_issuer).expect("a certificate");
        let signer_params = params(self.signer_name, SIGNER_SERIAL, false, self.expired);
        let signer = signer_params.signed_by(&keys.signer, &root_issuer).expect("a certificate");
        let other_root = root_params.self_signed(&p256()).expect("a certificate");
        let document_root = if self.documents_of_other_root { &other_root } else { &root };
        let updates = self.crl_updates;
        let pck_crl =
            if self.pck_ca_is_ca { crl(&ca_issuer, &self.revoked_by_pck_ca, updates) } else { Vec::new() };
        Issued {
            pck_chain: pem(&[&pck, &ca, &root]),
            endorsements: TdxEndorsements {
                tcb_info: answer("tcbInfo", &self.tcb_info, &keys.signer),
                tcb_info_issuer_chain: pem(&[&signer, document_root]),
                qe_identity: answer("enclaveIdentity", &self.qe_identity, &keys.signer),
                qe_identity_issuer_chain: pem(&[&signer, document_root]),
                root_ca_crl: crl(&root_issuer, &self.revoked_by_root, updates),
                pck_crl,
            },
        }
    }

    /// The quote of the platform with these keys, around a PCK chain in PEM.
    pub fn quote(&self, keys: &Keys, chain: &[u8]) -> Vec<u8> {
        let size = |length: usize| u32::try_from(length).expect("small").to_le_bytes();
        let mut quote = vec![self.version, 0, 2, 0, 0x81, 0, 0, 0];
        quote.extend(self.header_reserved);
        quote.extend(hex::decode("939a7233f79c4ca9940a0db3957f0607").expect("hex"));
        quote.extend([0; 20]);
        if self.version != 4 {
            quote.extend([if self.body.len() == BODY_1_0_LEN { 2 } else { 3 }, 0]);
            quote.extend(size(self.body.len()));
        }
        quote.extend(&self.body);

        let auth = b"authentication data";
        let point = &keys.attestation.public_key_raw()[1..];
        let mut report = self.qe_report.clone();
        let named = Sha256Digest::of(&[point, auth].concat());
        report[qe_report::REPORTDATA..qe_report::REPORTDATA + 32].copy_from_slice(named.as_bytes());
        // A PCK of another kind cannot sign like this; the certificate is refused before anybody looks.
        let report_signature =
            if self.pck_key == &PKCS_ECDSA_P256_SHA256 { sign(&keys.pck, &report) } else { vec![0; 64] };
        let mut certification = report;
        certification.extend(report_signature);
        certification.extend(u16::try_from(auth.len()).expect("small").to_le_bytes());
        certification.extend(auth);
        certification.extend([5, 0]);
        certification.extend(size(chain.len()));
        certification.extend(chain);

        let mut data = sign(&keys.attestation, &quote);
        data.extend(point);
        data.extend([6, 0]);
        data.extend(size(certification.len()));
        data.extend(certification);
        quote.extend(size(data.len()));
        quote.extend(data);
        quote.extend(&self.padding);
        quote
    }
}

/// SubjectPublicKeyInfo of a P-256 key (RFC 5480 §2).
fn spki(key: &KeyPair) -> Vec<u8> {
    let head = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").expect("hex");
    [head, key.public_key_raw().to_vec()].concat()
}

/// [`NOW`].
pub fn now() -> Timestamp {
    Timestamp::parse(NOW).expect("a time")
}
