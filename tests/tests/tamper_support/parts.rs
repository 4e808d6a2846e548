//! The parts of what a Relying Party fetches, each with a way to take it out and to put another in its place.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provenance::binding::{InclusionProof, LEAF_LABEL};
use provenance::digest::Sha256Digest;
use provenance::dsse::Envelope;
use provenance::evidence::{EvidenceBundle, certificate_table};
use provenance::se_exchange;
use provenance::secure_execution::{SecureExecutionEndorsements, SecureExecutionEvidence};
use provenance::tdx_endorsements::TdxEndorsements;
use serde_json::Value;
use verifier::secure_execution::{image, request};
use verifier::snp::report;
use verifier::tdx::Quote;
use verifier::tdx::quote::{HEADER_LEN, QE_REPORT_LEN, body, header, qe_report, signature_data};

use crate::fields::Form;
use verifier::ImageInput;

/// What was fetched about an image.
#[derive(Clone)]
pub(crate) struct Fetched {
    pub(crate) bundle: EvidenceBundle,
    pub(crate) input: ImageInput,
}

type Get = Box<dyn Fn(&Fetched) -> Vec<u8>>;
/// Puts a part in; whatever is above it is made again around it.
type Put = Box<dyn Fn(&mut Fetched, Vec<u8>)>;

/// A part of what was fetched.
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) form: Form,
    get: Get,
    put: Put,
}

impl Part {
    fn new(
        name: &str,
        form: Form,
        get: impl Fn(&Fetched) -> Vec<u8> + 'static,
        put: impl Fn(&mut Fetched, Vec<u8>) + 'static,
    ) -> Self {
        Self { name: name.to_owned(), form, get: Box::new(get), put: Box::new(put) }
    }

    /// One signature over the image is enough: the other is taken away, so that this one is needed.
    fn alone(&self, input: &mut ImageInput) {
        if self.name.starts_with("cosign/") {
            input.simple_signatures.clear();
        }
        if self.name.starts_with("simple-signing/") {
            input.envelopes.truncate(1);
        }
    }

    pub(crate) fn of(&self, fetched: &Fetched) -> Vec<u8> {
        (self.get)(fetched)
    }

    /// The same with another part in its place.
    pub(crate) fn replaced(&self, fetched: &Fetched, bytes: Vec<u8>) -> ImageInput {
        let mut fetched = fetched.clone();
        let collection = fetched.input.evidence[0].clone();
        (self.put)(&mut fetched, bytes);
        // Parts of the bundle are put into the bundle, which is then written.
        if fetched.input.evidence[0] == collection {
            fetched.input.evidence = vec![fetched.bundle.to_json()];
        }
        self.alone(&mut fetched.input);
        fetched.input
    }
}

/// Ranges between these offsets; the last ends at `end`.
fn ranges(fields: &[(&str, usize)], start: usize, end: usize) -> Vec<(String, Range<usize>)> {
    let ends = fields.iter().skip(1).map(|(_, offset)| start + offset).chain([end]);
    fields.iter().zip(ends).map(|((name, offset), end)| ((*name).to_owned(), start + offset..end)).collect()
}

/// Fields of these lengths, one after the other.
fn lengths(fields: &[(&str, usize)]) -> Vec<(String, Range<usize>)> {
    let mut next = 0;
    let mut found = Vec::new();
    for (name, length) in fields {
        found.push(((*name).to_owned(), next..next + length));
        next += length;
    }
    found
}

/// A field that stands for `count` equal ones.
fn split(fields: &mut Vec<(String, Range<usize>)>, name: &str, count: usize) {
    let at = fields.iter().position(|(known, _)| known == name).expect("the field");
    let (_, range) = fields.remove(at);
    let length = range.len() / count;
    for index in (0..count).rev() {
        let start = range.start + index * length;
        fields.insert(at, (format!("{name}[{index}]"), start..start + length));
    }
}

/// What every platform has.
pub(crate) fn common(good: &Fetched) -> Vec<Part> {
    let label = LEAF_LABEL.len();
    let leaf = lengths(&[
        ("label-length", 4),
        ("label", label),
        ("type", 1),
        ("salt", 32),
        ("instance", 32),
        ("body-length", 4),
        ("key", 32),
        ("nonce", 32),
        ("statement", 32),
    ]);
    let mut proof = vec![("leaf-index".to_owned(), 0..4), ("tree-size".to_owned(), 4..8)];
    proof
        .extend((0..good.bundle.proof.hashes.len()).map(|n| (format!("hash[{n}]"), 8 + 32 * n..40 + 32 * n)));
    let mut parts = vec![
        Part::new("collection", Form::Json, |f| f.input.evidence[0].clone(), |f, b| f.input.evidence[0] = b),
        Part::new("leaf", Form::Layout(leaf), |f| f.bundle.leaf.clone(), |f, b| f.bundle.leaf = b),
        Part::new("instance", Form::Json, |f| f.bundle.instance.clone(), |f, b| f.bundle.instance = b),
        Part::new(
            "proof",
            Form::Layout(proof),
            |f| proof_bytes(&f.bundle.proof),
            |f, b| {
                put_proof(&mut f.bundle.proof, &b);
            },
        ),
        Part::new(
            "signing-key",
            Form::Der,
            |f| f.bundle.signing_key.clone().expect("a key"),
            |f, b| f.bundle.signing_key = Some(b),
        ),
        Part::new(
            "caller-key",
            Form::Der,
            |f| f.bundle.caller_key.clone().expect("a key"),
            |f, b| f.bundle.caller_key = Some(b),
        ),
        Part::new("manifest", Form::Json, |f| f.input.documents[0].clone(), |f, b| f.input.documents[0] = b),
        Part::new(
            "simple-signing/payload",
            Form::Json,
            |f| f.input.simple_signatures[0].payload.clone(),
            |f, b| f.input.simple_signatures[0].payload = b,
        ),
        Part::new(
            "simple-signing/signature",
            Form::Der,
            |f| f.input.simple_signatures[0].signature.clone(),
            |f, b| f.input.simple_signatures[0].signature = b,
        ),
    ];
    parts.extend(envelope(
        "request",
        |f| f.bundle.request.clone().expect("a request"),
        |f, b| f.bundle.request = Some(b),
        "",
    ));
    for (index, name) in ["provenance", "cosign"].into_iter().enumerate() {
        parts.extend(envelope(
            name,
            move |f| f.input.envelopes[index].clone(),
            move |f, b| f.input.envelopes[index] = b,
            "/dsseEnvelope",
        ));
    }
    parts
}

fn proof_bytes(proof: &InclusionProof) -> Vec<u8> {
    let hashes = proof.hashes.iter().flat_map(|hash| *hash.as_bytes());
    proof.leaf_index.to_be_bytes().into_iter().chain(proof.tree_size.to_be_bytes()).chain(hashes).collect()
}

/// A proof has whole hashes only: what is cut is left out, and what is added is another hash.
fn put_proof(proof: &mut InclusionProof, bytes: &[u8]) {
    let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    (proof.leaf_index, proof.tree_size) = (word(0), word(4));
    let (hashes, rest) = bytes[8..].as_chunks::<32>();
    proof.hashes = hashes.iter().map(|hash| Sha256Digest::from_bytes(*hash)).collect();
    if !rest.is_empty() && bytes.len() > 8 + 32 {
        proof.hashes.push(Sha256Digest::of(rest));
    }
}

/// A DSSE envelope, at `at` in its JSON: the whole, its payload, its signature.
fn envelope(
    name: &str,
    get: impl Fn(&Fetched) -> Vec<u8> + Copy + 'static,
    put: impl Fn(&mut Fetched, Vec<u8>) + Copy + 'static,
    at: &'static str,
) -> [Part; 3] {
    let read = move |f: &Fetched| -> (Value, Envelope) {
        let document: Value = serde_json::from_slice(&get(f)).expect("JSON");
        let inner = document.pointer(at).expect("the envelope").to_string();
        (document, Envelope::parse(inner.as_bytes(), usize::MAX).expect("an envelope"))
    };
    let write = move |f: &mut Fetched, alter: &dyn Fn(&mut Envelope)| {
        let (mut document, mut envelope) = read(f);
        alter(&mut envelope);
        *document.pointer_mut(at).expect("the envelope") =
            serde_json::from_slice(&envelope.to_json()).expect("JSON");
        put(f, document.to_string().into_bytes());
    };
    [
        Part::new(&format!("{name}/envelope"), Form::Json, get, put),
        Part::new(
            &format!("{name}/payload"),
            Form::Json,
            move |f| read(f).1.payload,
            move |f, b| write(f, &move |envelope| envelope.payload.clone_from(&b)),
        ),
        Part::new(
            &format!("{name}/signature"),
            Form::Der,
            move |f| read(f).1.signature,
            move |f, b| write(f, &move |envelope| envelope.signature.clone_from(&b)),
        ),
    ]
}

/// The report, and the certificate table with its certificates.
pub(crate) fn snp() -> Vec<Part> {
    let mut fields = ranges(report::offset::FIELDS, 0, report::REPORT_LEN);
    split(&mut fields, "CPUID", 3);
    split(&mut fields, "CURRENT_VERSION", 4);
    split(&mut fields, "COMMITTED_VERSION", 4);
    let report = Part::new(
        "report",
        Form::Layout(fields),
        |f| f.bundle.evidence.report.clone(),
        |f, b| f.bundle.evidence.report = b,
    );
    let entry = [("guid", 16), ("offset", 4), ("length", 4)];
    let entries = |name| entry.map(|(field, length)| (format!("{name}/{field}"), length));
    let header: Vec<_> = ["first", "second", "third", "end"].into_iter().flat_map(entries).collect();
    let header: Vec<_> = header.iter().map(|(name, length)| (name.as_str(), *length)).collect();
    let table = Part::new(
        "certificate-table",
        Form::Layout(lengths(&header)),
        |f| f.bundle.evidence.endorsements[..4 * 24].to_vec(),
        |f, b| {
            f.bundle.evidence.endorsements.splice(..4 * 24, b);
        },
    );
    let certificate = |name, guid: [u8; 16]| {
        Part::new(
            name,
            Form::Der,
            move |f| table_of(f)[&guid].clone(),
            move |f, b| {
                let mut certificates = table_of(f);
                certificates.insert(guid, b);
                let entries: Vec<_> =
                    certificates.iter().map(|(guid, der)| (*guid, der.as_slice())).collect();
                f.bundle.evidence.endorsements = certificate_table::encode(&entries);
            },
        )
    };
    vec![
        report,
        table,
        certificate("vcek", certificate_table::VCEK),
        certificate("ask", certificate_table::ASK),
        certificate("ark", certificate_table::ARK),
    ]
}

fn table_of(fetched: &Fetched) -> std::collections::BTreeMap<[u8; 16], Vec<u8>> {
    certificate_table::parse(&fetched.bundle.evidence.endorsements).expect("a table")
}

fn pem(ders: &[Vec<u8>]) -> Vec<u8> {
    let mut out = String::new();
    for der in ders {
        out.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in STANDARD.encode(der).as_bytes().chunks(64) {
            out.push_str(std::str::from_utf8(line).expect("base64"));
            out.push('\n');
        }
        out.push_str("-----END CERTIFICATE-----\n");
    }
    out.into_bytes()
}

fn ders(pem: &[u8]) -> Vec<Vec<u8>> {
    let text = std::str::from_utf8(pem).expect("text");
    text.split("-----BEGIN CERTIFICATE-----\n")
        .skip(1)
        .map(|block| block.split("-----END").next().expect("a body").replace('\n', ""))
        .map(|body| STANDARD.decode(body).expect("base64"))
        .collect()
}

fn endorsements(fetched: &Fetched) -> TdxEndorsements {
    TdxEndorsements::parse(&fetched.bundle.evidence.endorsements).expect("framed").expect("some")
}

/// Another chain in a quote: the lengths around it are made to fit.
fn with_chain(quote: &[u8], chain: &[u8]) -> Vec<u8> {
    let parsed = Quote::parse(quote).expect("a quote");
    let (start, end) = parsed.chain_range();
    let mut out = [&quote[..start], chain, &quote[end..]].concat();
    let grown = |value: &[u8]| {
        let value = u32::from_le_bytes(value.try_into().expect("four bytes")) as usize;
        u32::try_from(value + chain.len() - (end - start)).expect("short").to_le_bytes()
    };
    for at in [
        parsed.signed_bytes().len(),
        parsed.signature_data_offset(signature_data::CERTIFICATION_SIZE),
        start - 4,
    ] {
        let value = grown(&quote[at..at + 4]);
        out[at..at + 4].copy_from_slice(&value);
    }
    out
}

fn quote_fields(quote: &[u8]) -> Vec<(String, Range<usize>)> {
    let parsed = Quote::parse(quote).expect("a quote");
    let (chain, end) = parsed.chain_range();
    let data = parsed.signed_bytes().len();
    let named = |prefix: &str, fields: Vec<(String, Range<usize>)>| {
        fields.into_iter().map(|(name, range)| (format!("{prefix}/{name}"), range)).collect::<Vec<_>>()
    };
    let start = parsed.body_offset(0);
    let mut body = ranges(body::FIELDS, start, data);
    split(&mut body, "RTMR0", 4);
    let qe = data + 4 + signature_data::QE_REPORT;
    let signature = ranges(signature_data::FIELDS, data + 4, chain - 6);
    let (before, after) =
        signature.split_at(signature.iter().position(|(name, _)| name == "QE_REPORT").expect("the report"));
    let mut fields = named("header", ranges(header::FIELDS, 0, start));
    // Of the body's own offset nothing stands in the header.
    fields.retain(|(_, range)| !range.is_empty());
    assert_eq!(start, HEADER_LEN + 6, "a quote of version 5");
    fields.extend(named("body", body));
    fields.push(("signature-data/length".to_owned(), data..data + 4));
    fields.extend(named("signature-data", before.to_vec()));
    fields.extend(named("qe-report", ranges(qe_report::FIELDS, qe, qe + QE_REPORT_LEN)));
    fields.extend(named("signature-data", after[1..].to_vec()));
    fields.push(("chain/type".to_owned(), chain - 6..chain - 4));
    fields.push(("chain/size".to_owned(), chain - 4..chain));
    fields.push(("chain".to_owned(), chain..end));
    fields
}

/// The quote with its chain, and Intel's word on the platform.
pub(crate) fn tdx(good: &Fetched) -> Vec<Part> {
    let mut parts = vec![Part::new(
        "quote",
        Form::Layout(quote_fields(&good.bundle.evidence.report)),
        |f| f.bundle.evidence.report.clone(),
        |f, b| f.bundle.evidence.report = b,
    )];
    for (index, name) in ["pck", "pck-ca", "root"].into_iter().enumerate() {
        let chain = |f: &Fetched| ders(Quote::parse(&f.bundle.evidence.report).expect("a quote").pck_chain());
        parts.push(Part::new(
            name,
            Form::Der,
            move |f| chain(f)[index].clone(),
            move |f, b| {
                let mut chain = chain(f);
                chain[index] = b;
                f.bundle.evidence.report = with_chain(&f.bundle.evidence.report, &pem(&chain));
            },
        ));
    }
    type Field = fn(&mut TdxEndorsements) -> &mut Vec<u8>;
    let fields: [(&str, Field); 4] = [
        ("tcb-info", |e| &mut e.tcb_info),
        ("qe-identity", |e| &mut e.qe_identity),
        ("root-crl", |e| &mut e.root_ca_crl),
        ("pck-crl", |e| &mut e.pck_crl),
    ];
    for (name, field) in fields {
        parts.push(Part::new(
            name,
            if name.ends_with("crl") { Form::Der } else { Form::Json },
            move |f| field(&mut endorsements(f)).clone(),
            move |f, b| {
                let mut altered = endorsements(f);
                *field(&mut altered) = b;
                f.bundle.evidence.endorsements = altered.encode();
            },
        ));
    }
    let chains: [(&str, Field); 2] = [
        ("tcb-info-chain", |e| &mut e.tcb_info_issuer_chain),
        ("qe-identity-chain", |e| &mut e.qe_identity_issuer_chain),
    ];
    for (name, field) in chains {
        for (index, which) in ["signer", "root"].into_iter().enumerate() {
            let chain = move |f: &Fetched| ders(field(&mut endorsements(f)));
            let name = format!("{name}/{which}");
            parts.push(Part::new(
                &name,
                Form::Der,
                move |f| chain(f)[index].clone(),
                move |f, b| {
                    let mut chain = chain(f);
                    chain[index] = b;
                    let mut altered = endorsements(f);
                    *field(&mut altered) = pem(&chain);
                    f.bundle.evidence.endorsements = altered.encode();
                },
            ));
        }
    }
    parts
}

/// The answer, the image's header, and what IBM says about the host key.
pub(crate) fn secure_execution(good: &Fetched) -> Vec<Part> {
    let evidence = |f: &Fetched| SecureExecutionEvidence::parse(&f.bundle.evidence.report).expect("framed");
    let given =
        |f: &Fetched| SecureExecutionEndorsements::parse(&f.bundle.evidence.endorsements).expect("framed");
    let SecureExecutionEvidence { response, header } = evidence(good);
    let mut header_fields = ranges(image::offset::FIELDS, 0, header.len());
    let tag = header.len() - 16;
    let (_, slots) = header_fields.pop().expect("slots");
    header_fields.push(("SLOTS-AND-ENCRYPTED".to_owned(), slots.start..tag));
    header_fields.push(("TAG".to_owned(), tag..header.len()));
    let mut parts = vec![
        Part::new("answer", Form::Layout(answer_fields(&response)), move |f| evidence(f).response, {
            move |f, response| {
                f.bundle.evidence.report = SecureExecutionEvidence { response, ..evidence(f) }.encode()
            }
        }),
        Part::new("image-header", Form::Layout(header_fields), move |f| evidence(f).header, {
            move |f, header| {
                f.bundle.evidence.report = SecureExecutionEvidence { header, ..evidence(f) }.encode()
            }
        }),
    ];
    type List = fn(&mut SecureExecutionEndorsements) -> &mut Vec<Vec<u8>>;
    let lists: [(&str, List); 3] = [
        ("host-key", |e| &mut e.host_keys),
        ("certificate", |e| &mut e.certificates),
        ("crl", |e| &mut e.crls),
    ];
    for (name, list) in lists {
        for index in 0..list(&mut given(good)).len() {
            let name = format!("{name}[{index}]");
            parts.push(Part::new(&name, Form::Der, move |f| list(&mut given(f))[index].clone(), {
                move |f, b| {
                    let mut altered = given(f);
                    list(&mut altered)[index] = b;
                    f.bundle.evidence.endorsements = altered.encode();
                }
            }));
        }
    }
    parts
}

/// Fields of an answer in the exchange format, with those of the request in it.
fn answer_fields(response: &[u8]) -> Vec<(String, Range<usize>)> {
    let mut fields = ranges(se_exchange::offset::FIELDS, 0, se_exchange::HEADER_LEN);
    split(&mut fields, "ENTRIES", 10);
    let parsed = se_exchange::ExchangeResponse::parse(response).expect("an answer");
    let start = se_exchange::HEADER_LEN;
    let arcb = parsed.request();
    let end = start + arcb.len();
    let slots = start + request::offset::SLOTS;
    let sealed = slots + usize::from(arcb[request::offset::KEY_SLOTS]) * request::KEY_SLOT_LEN;
    let mut of_request = ranges(request::offset::FIELDS, start, slots);
    // The last constant is where the slots begin, which have no end in the table.
    of_request.retain(|(_, range)| !range.is_empty());
    of_request.extend([
        ("SLOTS".to_owned(), slots..sealed),
        ("ENCRYPTED".to_owned(), sealed..end - request::TAG_LEN),
        ("TAG".to_owned(), end - request::TAG_LEN..end),
    ]);
    fields.extend(of_request.into_iter().map(|(name, range)| (format!("request/{name}"), range)));
    let mut next = end;
    let mut push = |name: &str, length: usize| {
        fields.push((name.to_owned(), next..next + length));
        next += length;
    };
    push("measurement", parsed.measurement().len());
    push("image-host-key-hash", 32);
    push("attestation-host-key-hash", 32);
    push("secret-store-hash", 64);
    push("firmware-state", parsed.additional_data().len() - 128);
    push("user-data", parsed.user_data().len());
    push("config-uid", parsed.config_uid().len());
    fields
}
