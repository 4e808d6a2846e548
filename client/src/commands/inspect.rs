//! `sealwright inspect`: everything about an image as it describes itself, judged by nobody.

use std::collections::HashSet;

use client::image::{Blobs, LocalImage, MAX_MANIFEST, gather, open_local, parse_manifest, registry};
use client::key::public_pem;
use client::progress::clean_text;
use provenance::binding::{Leaf, LeafBody};
use provenance::digest::Sha256Digest;
use provenance::dsse::{Envelope, IN_TOTO_PAYLOAD_TYPE};
use provenance::evidence::{EvidenceBundle, MAX_COLLECTION};
use provenance::instance::InstanceDocument;
use provenance::key::PublicKey;
use provenance::materials::Completeness;
use provenance::request::Source;
use provenance::secure_execution::{AttestationResult, MAX_ATTESTATION_RESULT};
use provenance::sigstore::{MAX_BUNDLE, parse_bundle, parse_simple_signing};
use provenance::statement::Statement;
use serde_json::{Value, json};
use verifier::image::ImageInput;

use super::args::InspectArgs;
use super::build::runtime;
use super::endorsements::is_json;
use super::failure::Failure;
use super::output::Output;
use super::setup::read_file;
use super::verify::{Target, credential, target};

const NOT_JUDGED: &str = "not judged: this is what the image says about itself; sealwright verify judges it";

/// Shows everything about an image.
pub(crate) fn run(args: &InspectArgs, output: &Output) -> Result<u8, Failure> {
    let document = match target(&args.target)? {
        Target::Local(path, None) if is_json(&path) => {
            let bytes = read_file(&path, MAX_COLLECTION, "Evidence")?;
            json!({"judged": false, "note": NOT_JUDGED, "name": args.target, "evidence": [evidence(&bytes)]})
        }
        Target::Local(path, selector) => {
            let image: LocalImage = open_local(&path, selector.as_deref())?;
            let (input, damaged) = gather(&image, image.image.digest, &image.attached)?;
            describe(&args.target, &image, &input, damaged.iter().map(ToString::to_string).collect())?
        }
        Target::Remote(name) => {
            let credential = credential(&name)?;
            let described = runtime()?.block_on(async {
                let image = registry::fetch(&name, credential.as_ref()).await?;
                let (input, damaged) = gather(&image, image.target, &image.attached)?;
                let damaged = damaged.iter().chain(&image.left_out).map(ToString::to_string).collect();
                describe(&name.to_string(), &image, &input, damaged)
            });
            described.map_err(|failure| Target::taken_for_name(&args.target, &name, failure))?
        }
    };
    if output.is_json() {
        output.document(&document);
    } else {
        output.data(&text(&document));
        output.say(NOT_JUDGED);
    }
    Ok(0)
}

fn describe(
    name: &str,
    blobs: &dyn Blobs,
    input: &ImageInput,
    damaged: Vec<String>,
) -> Result<Value, Failure> {
    let root = parse_manifest(input.target, &blobs.document(&input.target, MAX_MANIFEST)?)?;
    let mut images = Vec::new();
    for child in &root.manifests {
        let platform = child.platform.as_ref().map(|p| {
            let variant = p.variant.as_ref().map_or(String::new(), |v| format!("/{v}"));
            format!("{}/{}{variant}", p.os, p.architecture)
        });
        images.push(json!({"digest": child.digest, "platform": platform}));
    }
    // The same statement is attached in several forms.
    let mut seen = HashSet::new();
    let mut statements: Vec<Value> = input.envelopes.iter().map(|bytes| statement(bytes)).collect();
    statements
        .retain(|statement| statement["digest"].is_null() || seen.insert(statement["digest"].to_string()));
    let signatures: Vec<Value> = input
        .simple_signatures
        .iter()
        .map(|s| match parse_simple_signing(&s.payload) {
            Ok((repository, digest)) => json!({"repository": repository, "image": digest}),
            Err(problem) => json!({"problem": problem}),
        })
        .collect();
    Ok(json!({
        "judged": false,
        "note": NOT_JUDGED,
        "name": name,
        "image": input.target,
        "images": images,
        "layers": root.layers.iter().map(|l| json!({"digest": l.digest, "size": l.size, "mediaType": l.media_type})).collect::<Vec<_>>(),
        "evidence": input.evidence.iter().map(|bytes| evidence(bytes)).collect::<Vec<_>>(),
        "statements": statements,
        "signatures": signatures,
        "damaged": damaged,
    }))
}

fn evidence(bytes: &[u8]) -> Value {
    let digest = Sha256Digest::of(bytes);
    let bundle = match EvidenceBundle::parse(bytes) {
        Ok(bundle) => bundle,
        Err(problem) => return json!({"digest": digest, "problem": problem.to_string()}),
    };
    let leaf = match Leaf::parse(&bundle.leaf).map(|leaf| leaf.body) {
        Ok(LeafBody::Build { spki_sha256, statement_sha256, .. }) => {
            json!({"kind": "build", "key": spki_sha256, "statement": statement_sha256})
        }
        Ok(LeafBody::Key { scope_sha256, spki_sha256, .. }) => {
            json!({"kind": "key", "key": spki_sha256, "scope": scope_sha256})
        }
        Ok(LeafBody::Session { tls_spki_sha256, .. }) => json!({"kind": "session", "key": tls_spki_sha256}),
        Err(problem) => json!({"problem": problem.to_string()}),
    };
    let instance = serde_json::from_slice::<InstanceDocument>(&bundle.instance)
        .map_or_else(|e| json!({"problem": e.to_string()}), |instance| json!(instance));
    json!({
        "digest": digest,
        "platform": bundle.evidence.platform,
        "reportBytes": bundle.evidence.report.len(),
        "endorsementBytes": bundle.evidence.endorsements.len(),
        "leaf": leaf,
        "batch": {"index": bundle.proof.leaf_index, "size": bundle.proof.tree_size},
        "instance": instance,
        "instanceDigest": Sha256Digest::of(&bundle.instance),
        "signedRequest": bundle.request.is_some(),
        "attestationResult": bundle.attestation_result.as_deref().map(attestation_result),
        "signingKeyPem": bundle.signing_key.as_deref().and_then(|der| PublicKey::from_spki_der(der).ok()).map(|key| public_pem(&key)),
    })
}

/// The word of a Verifier. Who signed it is for a policy to say: the envelope does not.
fn attestation_result(bytes: &[u8]) -> Value {
    let parsed = Envelope::parse(bytes, MAX_ATTESTATION_RESULT)
        .map_err(|problem| problem.to_string())
        .and_then(|envelope| AttestationResult::parse(&envelope.payload).map_err(|e| e.to_string()));
    match parsed {
        Err(problem) => json!({"problem": problem}),
        Ok(result) => json!({
            "evidence": result.evidence_sha256,
            "request": result.request_sha256,
            "image": hex::encode(result.image),
            "imageHostKey": result.image_host_key,
            "attestationHostKey": result.attestation_host_key,
            "configUid": hex::encode(result.config_uid),
            "hostKeyRoot": result.host_key_root,
            "policy": result.policy_sha256,
            "issuedAt": result.issued_at,
            "expiresAt": result.expires_at,
        }),
    }
}

fn statement(bytes: &[u8]) -> Value {
    let envelope = match parse_bundle(bytes)
        .map(|bundle| bundle.envelope)
        .ok()
        .or_else(|| Envelope::parse(bytes, MAX_BUNDLE).ok())
    {
        Some(envelope) => envelope,
        None => return json!({"problem": "neither a Sigstore bundle with a key hint nor a DSSE envelope"}),
    };
    let payload: Value = serde_json::from_slice(&envelope.payload).unwrap_or(Value::Null);
    let is_statement = envelope.payload_type == IN_TOTO_PAYLOAD_TYPE;
    let parsed = Statement::parse(&envelope.payload).ok();
    json!({
        "digest": Sha256Digest::of(&envelope.payload),
        "payloadType": envelope.payload_type,
        "predicateType": payload.get("predicateType"),
        "statement": if is_statement { payload.clone() } else { Value::Null },
        "ours": parsed.is_some(),
    })
}

/// The same for people.
fn text(document: &Value) -> String {
    let mut out = String::new();
    let string = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let items = |key: &str| document[key].as_array().cloned().unwrap_or_default();
    let mut line =
        |word: &str, fact: &str| out.push_str(&format!("{word:<12} {}\n", clean_text(fact, "             ")));
    line("name", &string(&document["name"]));
    if let Some(image) = document["image"].as_str() {
        line("image", image);
    }
    for image in items("images") {
        line("  platform", &format!("{} {}", string(&image["platform"]), string(&image["digest"])));
    }
    for layer in items("layers") {
        line("  layer", &format!("{} {} bytes", string(&layer["digest"]), layer["size"]));
    }
    for evidence in items("evidence") {
        line("evidence", &format!("{} {}", string(&evidence["platform"]), string(&evidence["digest"])));
        line(
            "  leaf",
            &format!("{} key {}", string(&evidence["leaf"]["kind"]), string(&evidence["leaf"]["key"])),
        );
        line("  batch", &format!("leaf {} of {}", evidence["batch"]["index"], evidence["batch"]["size"]));
        line("  builder", &string(&evidence["instance"]["builder_id"]));
        line("  version", &string(&evidence["instance"]["version"]));
        line("  instance", &string(&evidence["instanceDigest"]));
        let result = &evidence["attestationResult"];
        if let Some(problem) = result["problem"].as_str() {
            line("  result", problem);
        } else if result.is_object() {
            line("  result", &format!("of a Verifier under policy {}", string(&result["policy"])));
            let times = format!("{} until {}", string(&result["issuedAt"]), string(&result["expiresAt"]));
            line("", &format!("  {times}, about request {}", string(&result["request"])));
        }
    }
    for statement in items("statements") {
        line(
            "statement",
            &format!("{} {}", string(&statement["predicateType"]), string(&statement["digest"])),
        );
        let parsed: Option<Statement> = serde_json::from_value(statement["statement"].clone()).ok();
        if let Some(parsed) = parsed.filter(|_| statement["ours"] == true) {
            for (word, fact) in facts(&parsed) {
                line(&format!("  {word}"), &fact);
            }
        }
    }
    for signature in items("signatures") {
        line(
            "signature",
            &format!("cosign, for {}@{}", string(&signature["repository"]), string(&signature["image"])),
        );
    }
    for problem in items("damaged") {
        line("damaged", &string(&problem));
    }
    out
}

fn facts(statement: &Statement) -> Vec<(String, String)> {
    let definition = &statement.predicate.build_definition;
    let external = &definition.external_parameters;
    let request = &external.request;
    let mut facts = vec![
        ("caller".to_owned(), external.caller.to_string()),
        ("project".to_owned(), format!("{} {}", request.project.name, request.project.id())),
        ("build".to_owned(), request.build_id.to_string()),
        ("request".to_owned(), format!("{} of {}", external.request_digest, request.issued_at)),
    ];
    let context = match &request.context {
        Source::Tree { root } => root.to_string(),
        Source::Git { url } => url.clone(),
        Source::Image { reference } => reference.clone(),
        Source::OciLayout { manifest, .. } => manifest.to_string(),
    };
    facts.push(("context".to_owned(), context));
    for (class, state) in &definition.internal_parameters.completeness {
        let count = definition.resolved_dependencies.iter().filter(|m| m.annotations.class == *class).count();
        let state = match state {
            Completeness::Observed {} => "observed".to_owned(),
            Completeness::Committed {} => "committed".to_owned(),
            Completeness::None {} => continue,
            Completeness::Incomplete { reason } => format!("incomplete: {reason}"),
        };
        facts.push(("materials".to_owned(), format!("{} {count}, {state}", class.name())));
        for material in definition.resolved_dependencies.iter().filter(|m| m.annotations.class == *class) {
            let what = material.uri.as_ref().or(material.name.as_ref()).cloned().unwrap_or_default();
            let digests = material.digest.iter().map(|(algorithm, hex)| format!("{algorithm}:{hex}"));
            let value = material.annotations.value.iter().map(|value| format!("`{value}`"));
            let words: Vec<String> = std::iter::once(what).chain(digests).chain(value).collect();
            facts.push((String::new(), words.join(" ")));
        }
    }
    facts
}
