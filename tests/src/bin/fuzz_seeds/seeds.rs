//! What each target begins with.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use enclave_keys::{InstanceInputs, KeyRequest, KeyService};
use provenance::azure::{AzureEvidence, PCRS};
use provenance::canonical::to_canonical_json;
use provenance::challenge::{AttestationRequest, Challenge};
use provenance::context::{Directory, Entry, Kind, Name};
use provenance::digest::Sha256Digest;
use provenance::evidence::{Platform, certificate_table};
use provenance::frame::FrameWriter;
use provenance::project::ProjectId;
use provenance::secure_execution::{AttestationResult, SecureExecutionEndorsements, SecureExecutionEvidence};
use provenance::tdx_endorsements::TdxEndorsements;
use provenance::timestamp::Timestamp;
use sealwright_tests::reference_values::{self, SoftwareRelease};
use sealwright_tests::release_fixture::{FixtureKey, Release, instance_inputs};
use sealwright_tests::software_tee::SoftwareTee;
use sealwright_tests::software_tee::tdx::SoftwareTdx;
use sealwright_tests::software_tee::tdx::event_log;
use sealwright_tests::timestamping::{KeyKind, TimestampAuthority};
use sealwright_tests::vectors;
use serde_json::{Value, json};

use crate::good::{self, Good};
use crate::world::now;

/// Label of inputs that have several parts, as the targets read them.
const PARTS: &str = "sealwright/fuzz/v1";
/// First byte of a certificate or list: whose profile reads it.
const AMD: u8 = 0;
const INTEL: u8 = 1;
const IBM: u8 = 2;
const ENCLAVE: u8 = 4;

fn framed(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().fold(FrameWriter::new(PARTS), |writer, part| writer.framed(part)).finish()
}

/// Seeds by target; the order of a target's seeds names them.
#[derive(Default)]
struct Seeds(BTreeMap<&'static str, Vec<Vec<u8>>>);

impl Seeds {
    fn put(&mut self, target: &'static str, bytes: impl Into<Vec<u8>>) {
        self.0.entry(target).or_default().push(bytes.into());
    }

    fn certificate(&mut self, profile: u8, der: &[u8]) {
        self.put("certificate", [&[profile], der].concat());
    }

    fn crl(&mut self, profile: u8, der: &[u8]) {
        self.put("crl", [&[profile], der].concat());
    }

    fn write(&self, folder: &Path) -> io::Result<()> {
        for (target, seeds) in &self.0 {
            let folder = folder.join(target);
            fs::create_dir_all(&folder)?;
            for (index, seed) in seeds.iter().enumerate() {
                fs::write(folder.join(format!("{index:03}")), seed)?;
            }
        }
        Ok(())
    }
}

/// The DER of everything between armour lines.
fn pem(text: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(text);
    let mut found = Vec::new();
    for block in text.split("-----BEGIN ").skip(1) {
        let body: String =
            block.lines().skip(1).take_while(|line| !line.starts_with("-----END")).map(str::trim).collect();
        found.extend(STANDARD.decode(body));
    }
    found
}

/// Writes `seeds` and `good` below `folder`.
pub(crate) fn write(folder: &Path) -> io::Result<()> {
    let mut seeds = Seeds::default();
    let (snp, tdx, se) = (good::snp(), good::tdx(), good::secure_execution());
    for (name, pair) in [("snp", &snp), ("tdx", &tdx), ("se", &se)] {
        keep(&folder.join("good"), name, pair)?;
        pair.iter().for_each(|good| of_build(&mut seeds, good));
    }
    of_snp(&mut seeds, &snp);
    of_tdx(&mut seeds, &tdx);
    of_secure_execution(&mut seeds, &se);
    of_documents(&mut seeds, &snp[0]);
    of_azure(&mut seeds, &snp[0]);
    of_time(&mut seeds).map_err(io::Error::other)?;
    of_certificates(&mut seeds, &folder.join("good"))?;
    if let Some(recorded) = vectors::folder() {
        of_vectors(&mut seeds, &recorded)?;
    }
    seeds.write(&folder.join("seeds"))
}

/// What the targets compare with.
fn keep(folder: &Path, name: &str, [good, other]: &[Good; 2]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let write = |file: &str, bytes: &[u8]| fs::write(folder.join(file), bytes);
    write(&format!("{name}-evidence"), &good.made.input.evidence[0])?;
    write(&format!("{name}-other-evidence"), &other.made.input.evidence[0])?;
    write(&format!("{name}-policy.toml"), good.made.policy.0.as_bytes())?;
    if let Some((request, key)) = &good.request {
        write("se-request", request)?;
        write("se-protection-key", key)?;
    }
    if name == "snp" {
        // What is made after this is valid too.
        let soon = Timestamp::from_unix(now().unix() + 600).expect("before 9999");
        write("now", soon.to_string().as_bytes())?;
        write("image-manifest", &good.world.manifest)?;
        write("image-repository", good.made.input.repository.as_deref().unwrap_or_default().as_bytes())?;
    }
    Ok(())
}

/// What an instance certifies.
fn of_certificates(seeds: &mut Seeds, folder: &Path) -> io::Result<()> {
    let tee = SoftwareTee::shared().expect("a software TEE");
    let inputs = InstanceInputs { started_at: now(), ..instance_inputs() };
    let policy = |keys: &KeyService| {
        let caller = FixtureKey::new().public;
        reference_values::dangerous_policy(&tee, keys.instance(), &[("ci".to_owned(), caller)])
    };
    let attester = SoftwareTee::shared().expect("a software TEE");
    let keys = KeyService::start(Box::new(attester), inputs, None).expect("started");
    let project = ProjectId(Sha256Digest::of(b"a project"));
    let key = keys.project_key(&project, Challenge::Nonce).expect("a key");
    fs::write(folder.join("certificates-policy.toml"), policy(&keys))?;
    fs::write(folder.join("certificates-project"), project.0.hex())?;
    fs::write(folder.join("certificates-project.der"), &key.certificate)?;
    seeds.certificate(ENCLAVE, &key.certificate);
    seeds.certificate(ENCLAVE, &key.authority.certificate);
    let whole =
        framed(&[&key.certificate, &key.evidence, &key.authority.certificate, &key.authority.evidence]);
    seeds.put("project-certificates", whole);
    Ok(())
}

/// The documents of a whole build.
fn of_build(seeds: &mut Seeds, good: &Good) {
    let (made, bundle) = (&good.made, &good.made.bundle);
    let signed = &made.input.simple_signatures[0];
    seeds.put("evidence-collection", bundle.to_json());
    seeds.put("leaf", bundle.leaf.clone());
    seeds.put("instance", bundle.instance.clone());
    seeds.put("request", good.world.request.document());
    seeds.put("project", good.world.request.project.document());
    seeds.put("statement", made.statement.document());
    seeds.put("policy", made.policy.0.clone());
    seeds.put("dsse", bundle.request.clone().unwrap_or_default());
    seeds.put("public-key", bundle.signing_key.clone().unwrap_or_default());
    seeds.put("simple-signing", signed.payload.clone());
    seeds.put("oci-manifest", good.world.manifest.clone());
    for envelope in &made.input.envelopes {
        seeds.put("sigstore-bundle", envelope.clone());
    }
    let internal = &made.statement.predicate.build_definition;
    let materials = (&internal.resolved_dependencies, &internal.internal_parameters.completeness);
    seeds.put("materials", to_canonical_json(&materials));
    seeds.put("own-report", with_asked_data(&bundle.evidence.report));
    let whole = framed(&[&bundle.evidence.report, &bundle.evidence.endorsements, &0_i64.to_be_bytes()]);
    let asked = framed(&[&bundle.evidence.report, &bundle.evidence.endorsements]);
    seeds.put("wanted-endorsements", asked);
    let envelopes = &made.input.envelopes;
    let image = framed(&[
        &good.world.manifest,
        &made.input.evidence[0],
        &envelopes[0],
        &envelopes[1],
        &signed.payload,
        &signed.signature,
    ]);
    match bundle.evidence.platform {
        Platform::SevSnp => {
            seeds.put("snp-evidence", whole);
            seeds.put("image", image);
        }
        Platform::Tdx => seeds.put("tdx-evidence", whole),
        Platform::SecureExecution => seeds.put("se-evidence", whole),
        _ => {}
    }
}

/// The report as if it had been asked for over the bytes that the target asks for.
fn with_asked_data(report: &[u8]) -> Vec<u8> {
    let mut report = report.to_vec();
    let at = if report.len() == 1184 { 0x50 } else { 54 + 520 };
    if let Some(data) = report.get_mut(at..at + 64) {
        data.fill(0x5a);
    }
    report
}

fn of_snp(seeds: &mut Seeds, pair: &[Good; 2]) {
    for good in pair {
        let evidence = &good.made.bundle.evidence;
        seeds.put("snp-report", evidence.report.clone());
        seeds.put("snp-certificate-table", evidence.endorsements.clone());
        let table = certificate_table::parse(&evidence.endorsements).expect("a table");
        table.values().for_each(|der| seeds.certificate(AMD, der));
    }
    let tee = &pair[0].world.tee;
    let updates = sealwright_tests::software_tee::Validity { not_before: now(), not_after: now() };
    seeds.crl(AMD, &tee.revocation_list(&[1, 2], updates));
}

fn of_tdx(seeds: &mut Seeds, pair: &[Good; 2]) {
    seeds.put("tdx-event-log", event_log::log());
    for good in pair {
        let evidence = &good.made.bundle.evidence;
        let parsed = TdxEndorsements::parse(&evidence.endorsements).expect("framed").expect("some");
        seeds.put("tdx-quote", evidence.report.clone());
        seeds.put("tdx-endorsements", evidence.endorsements.clone());
        tdx_parts(seeds, &evidence.report, &parsed);
    }
}

fn tdx_parts(seeds: &mut Seeds, quote: &[u8], parsed: &TdxEndorsements) {
    seeds.put("tdx-documents", framed(&[quote, &parsed.tcb_info, &parsed.qe_identity]));
    seeds.crl(INTEL, &parsed.root_ca_crl);
    seeds.crl(INTEL, &parsed.pck_crl);
    let of_quote = verifier::tdx::Quote::parse(quote).map(|quote| quote.pck_chain().to_vec());
    for chain in [of_quote.unwrap_or_default(), parsed.tcb_info_issuer_chain.clone()] {
        pem(&chain).iter().for_each(|der| seeds.certificate(INTEL, der));
        seeds.put("tdx-pem-chain", chain);
    }
}

fn of_secure_execution(seeds: &mut Seeds, pair: &[Good; 2]) {
    for good in pair {
        let evidence = &good.made.bundle.evidence;
        let parsed = SecureExecutionEvidence::parse(&evidence.report).expect("framed");
        let given = SecureExecutionEndorsements::parse(&evidence.endorsements).expect("framed");
        seeds.put("se-exchange", parsed.response);
        seeds.put("se-image-header", parsed.header);
        seeds.put("se-endorsements", evidence.endorsements.clone());
        let request = &good.request.as_ref().expect("a request").0;
        seeds.put("se-request", request.clone());
        seeds.put("se-exchange", announced(request));
        given.host_keys.iter().chain(&given.certificates).for_each(|der| seeds.certificate(IBM, der));
        given.crls.iter().for_each(|der| seeds.crl(IBM, der));
        let result = AttestationResult {
            evidence_sha256: Sha256Digest::of(&evidence.report),
            request_sha256: Sha256Digest::of(b"request"),
            user_data: vec![7; 64],
            image: [6; 208],
            image_host_key: Sha256Digest::of(b"host key"),
            attestation_host_key: Sha256Digest::of(b"host key"),
            config_uid: [5; 16],
            host_key_root: Sha256Digest::of(b"root"),
            policy_sha256: Sha256Digest::of(b"policy"),
            issued_at: now(),
            expires_at: Timestamp::from_unix(now().unix() + 60).expect("a time"),
        };
        seeds.put("attestation-result", result.document());
    }
}

fn of_documents(seeds: &mut Seeds, good: &Good) {
    let instance = &good.world.instance;
    seeds.put("reference-values", SoftwareRelease::snp(&good.world.tee).values(instance).document());
    let tdx = SoftwareTdx::shared().expect("a software TD");
    seeds.put("reference-values", SoftwareRelease::tdx(&tdx).values(instance).document());
    let name = |text: &str| Name::new(text.as_bytes()).expect("a name");
    let entry = |text: &str, kind| Entry {
        name: name(text),
        kind,
        mode: 0o644,
        mtime_ns: 7,
        xattrs: BTreeMap::new(),
    };
    let digest = Sha256Digest::of(b"file");
    let mut link = entry("c", Kind::Symlink { target: b"a".to_vec() });
    link.xattrs.insert(b"user.key".to_vec(), b"value".to_vec());
    let entries = vec![
        entry("a", Kind::File { size: 4, digest }),
        entry("b", Kind::Directory { digest }),
        link,
        entry("d", Kind::Fifo),
        entry("e", Kind::CharDevice { major: 1, minor: 3 }),
    ];
    seeds.put("directory", Directory::new(entries).expect("a directory").encode());
    for text in
        ["*.log\n!keep.log\n# comment\n**/[a-c]?/*\n/build\nsrc/a.log", "**\n!a\nb/a", "a\\*b{c}\na/b/c"]
    {
        seeds.put("ignore-file", text);
    }
    for text in ["2026-11-21T10:00:00Z", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z"] {
        seeds.put("timestamp", text);
    }
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": good.world.target(), "size": good.world.manifest.len(),
            "platform": {"os": "linux", "architecture": "amd64"}}]});
    seeds.put("oci-manifest", index.to_string());
    seeds.put("key-process-frames", questions(good));
    for case in sealed_files() {
        seeds.put("sealed-epoch", case);
    }
}

/// A request as `pvattest create` writes it: it announces a measurement and additional data.
fn announced(request: &[u8]) -> Vec<u8> {
    let length = u32::try_from(request.len()).expect("short");
    let words = [0x40 + length, 0, 0, length, 0x40, 64, 0, 448, 0, 0, 0, 0, 0];
    let words = words.iter().flat_map(|word: &u32| word.to_be_bytes());
    b"pvattest\x00\x00\x01\x00".iter().copied().chain(words).chain(request.iter().copied()).collect()
}

/// What build-server asks on one connection.
fn questions(good: &Good) -> Vec<u8> {
    let release = Release::of_instance(&good.world.instance, "b-1").to_request();
    let challenge = Challenge::from(AttestationRequest::parse(&announced(&[9; 400])).ok());
    let questions = [
        KeyRequest::Instance {},
        KeyRequest::ProjectKey { project: good.world.request.project.id(), challenge: Challenge::Nonce },
        KeyRequest::SessionEvidence { exporter: [1; 32], nonce: good.world.request.nonce, challenge },
        KeyRequest::TlsCertificate {},
        KeyRequest::SignTls { message: vec![2; 130] },
        KeyRequest::Health {},
        KeyRequest::Release(release),
    ];
    let frame = |number: usize, json: Vec<u8>| {
        let length = u32::try_from(8 + json.len()).expect("short");
        [&length.to_be_bytes()[..], &(number as u64).to_be_bytes(), &json].concat()
    };
    let mut bytes = frame(0, serde_json::to_vec(&instance_inputs()).expect("JSON"));
    for (number, question) in questions.iter().enumerate() {
        bytes.extend(frame(number + 1, serde_json::to_vec(question).expect("JSON")));
    }
    bytes
}

/// The committed vectors of sealed epochs.
fn sealed_files() -> Vec<Vec<u8>> {
    let text = include_str!("../../../../enclave-keys/vectors/sealed-epoch-v1.json");
    let vectors: Value = serde_json::from_str(text).expect("vectors");
    let cases = vectors["cases"].as_array().expect("cases");
    cases.iter().map(|case| hex::decode(case["file"].as_str().expect("hex")).expect("hex")).collect()
}

/// Timestamps by `openssl ts`.
fn of_time(seeds: &mut Seeds) -> anyhow::Result<()> {
    let authority = TimestampAuthority::new()?;
    for kind in [KeyKind::P256, KeyKind::P384, KeyKind::Rsa] {
        let signer = authority.signer(kind)?;
        seeds.put("rfc3161-timestamp", authority.stamp(&signer, "-sha256", &"11".repeat(32))?);
    }
    for name in ["root", "intermediate"] {
        seeds.put("certificate", [vec![3], authority.der(name)?].concat());
    }
    Ok(())
}

/// An HCL report around the report of the software TEE, and a quote of no TPM at all.
fn of_azure(seeds: &mut Seeds, good: &Good) {
    let key = json!({"kid": "HCLAkPub", "kty": "RSA", "key_ops": ["sign"], "n": "AQAB", "e": "AQAB"});
    let runtime = json!({"keys": [key], "vm-configuration": {}}).to_string();
    let word = |value: usize| u32::try_from(value).expect("small").to_le_bytes();
    let end = 0x4d4 + runtime.len();
    let mut hcl = b"HCLA".to_vec();
    hcl.extend([word(2), word(end), word(2)].concat());
    hcl.extend([0; 16]);
    hcl.extend(&good.made.bundle.evidence.report);
    hcl.extend([word(end - 0x4c0), word(1), word(2), word(1), word(runtime.len())].concat());
    hcl.extend(runtime.as_bytes());
    let evidence = AzureEvidence {
        hcl_report: hcl.clone(),
        td_quote: vec![],
        quote: vec![1; 100],
        signature: vec![2; 256],
        pcrs: [[3; 32]; PCRS],
        event_log: pcr_log(),
    };
    seeds.put("azure-evidence", evidence.encode());
    seeds.put("azure-event-log", evidence.event_log);
    seeds.put("azure-hcl-report", hcl);
    let mut quote = b"\xffTCG\x80\x18\x00\x02\x0b\x0b\x00\x20".to_vec();
    quote.extend([7; 32]);
    quote.extend([0; 25]);
    quote.extend(b"\x00\x00\x00\x01\x00\x0b\x03\xff\x00\x00\x00\x20");
    quote.extend([8; 32]);
    seeds.put("azure-tpm-quote", quote);
}

/// An event log of the SHA-256 bank: a locality, and one event for each of three PCRs.
fn pcr_log() -> Vec<u8> {
    let word = u32::to_le_bytes;
    let mut log = [word(0), word(3)].concat();
    log.extend([0; 20]);
    let mut first = b"Spec ID Event03\0".to_vec();
    first.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    first.extend(word(1));
    first.extend([0x0b, 0, 32, 0, 0]);
    log.extend(word(u32::try_from(first.len()).expect("short")));
    log.extend(first);
    for (pcr, kind, data) in
        [(0, 3, &b"StartupLocality\0\x03"[..]), (0, 1, b"firmware"), (7, 1, b"secure boot"), (23, 13, b"")]
    {
        log.extend([word(pcr), word(kind), word(1)].concat());
        log.extend([0x0b, 0]);
        log.extend(Sha256Digest::of(data).as_bytes());
        log.extend(word(u32::try_from(data.len()).expect("short")));
        log.extend(data);
    }
    log
}

/// Recorded Evidence by what its files are called.
fn of_vectors(seeds: &mut Seeds, folder: &Path) -> io::Result<()> {
    let index: Value = serde_json::from_slice(&fs::read(folder.join("index.json"))?)?;
    let mut quotes = Vec::new();
    let mut collateral = Vec::new();
    for path in index["files"].as_object().into_iter().flat_map(|files| files.keys()) {
        let bytes = fs::read(folder.join(path))?;
        let profile = match path.split('/').next() {
            Some("snp") => AMD,
            Some("tdx") => INTEL,
            _ => IBM,
        };
        let ders = if bytes.starts_with(b"0") { vec![bytes.clone()] } else { pem(&bytes) };
        match path.rsplit(['/', '.']).next() {
            Some("pem" | "der" | "crt") => ders.iter().for_each(|der| seeds.certificate(profile, der)),
            Some("crl") => ders.iter().for_each(|der| seeds.crl(profile, der)),
            Some("json") if path.starts_with("tdx/") => collateral.push(serde_json::from_slice(&bytes)?),
            Some("json") => of_azure_vector(seeds, &serde_json::from_slice(&bytes)?),
            _ if path.ends_with("report.bin") => {
                seeds.put("own-report", with_asked_data(&bytes));
                seeds.put("snp-report", bytes);
            }
            _ if path.ends_with("quote.bin") => {
                seeds.put("tdx-quote", bytes.clone());
                quotes.push(bytes);
            }
            _ if path.ends_with("ccel.bin") => seeds.put("tdx-event-log", bytes),
            _ if path.ends_with("se_header.bin") => seeds.put("se-image-header", bytes),
            _ if path.starts_with("se/") => seeds.put("se-exchange", bytes),
            _ => {}
        }
    }
    for parsed in collateral.iter().map(tdx_collateral) {
        // One quote is enough to have the documents judged.
        if let Some(quote) = quotes.first() {
            tdx_parts(seeds, quote, &parsed);
        }
        seeds.put("tdx-endorsements", parsed.encode());
    }
    Ok(())
}

/// Intel's answers as other tools keep them: the signed text and the signature apart.
fn tdx_collateral(json: &Value) -> TdxEndorsements {
    let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    let answer = |name: &str, document: &str| {
        let signature = text(&format!("{document}_signature"));
        format!("{{\"{name}\":{},\"signature\":\"{signature}\"}}", text(document)).into_bytes()
    };
    TdxEndorsements {
        tcb_info: answer("tcbInfo", "tcb_info"),
        tcb_info_issuer_chain: text("tcb_info_issuer_chain").into_bytes(),
        qe_identity: answer("enclaveIdentity", "qe_identity"),
        qe_identity_issuer_chain: text("qe_identity_issuer_chain").into_bytes(),
        root_ca_crl: hex::decode(text("root_ca_crl")).unwrap_or_default(),
        pck_crl: hex::decode(text("pck_crl")).unwrap_or_default(),
    }
}

/// Texts of bytes anywhere in the recorded Evidence of Azure, by what they begin with.
fn of_azure_vector(seeds: &mut Seeds, json: &Value) {
    match json {
        Value::String(text) => {
            let decoded = hex::decode(text)
                .ok()
                .or_else(|| STANDARD.decode(text).ok())
                .or_else(|| URL_SAFE_NO_PAD.decode(text).ok())
                .unwrap_or_default();
            if decoded.starts_with(b"HCLA") {
                seeds.put("azure-hcl-report", decoded);
            } else if decoded.starts_with(b"\xffTCG") {
                seeds.put("azure-tpm-quote", decoded);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| of_azure_vector(seeds, item)),
        Value::Object(fields) => fields.values().for_each(|item| of_azure_vector(seeds, item)),
        _ => {}
    }
}
