//! `sealwright key …` and `sealwright project …`.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::key::{CallerKey, KeyError, public_pem};
use provenance::digest::Sha256Digest;
use provenance::key::{KeyAlgorithm, PublicKey};
use provenance::project::Project;
use serde_json::json;

use super::args::{KeyCommand, ProjectCommand};
use super::failure::Failure;
use super::output::{Output, counted};
use super::setup::{Setup, read_file, read_project};

/// Largest key file in bytes.
const MAX_KEY_FILE: usize = 64 << 10;

/// `sealwright key new|show`.
pub(crate) fn key(command: &KeyCommand, setup: &Setup, output: &Output) -> Result<u8, Failure> {
    match command {
        KeyCommand::New { kind, file } => {
            let algorithm =
                if kind == "ed25519" { KeyAlgorithm::Ed25519 } else { KeyAlgorithm::EcdsaP256Sha256 };
            let key = CallerKey::generate(algorithm)?;
            key.save_new(file).map_err(|error| match error {
                KeyError::File { .. } => Failure::usage(error)
                    .advise("give a file in a folder that is there and is yours to write"),
                error => error.into(),
            })?;
            output.status("key", &format!("{} written, readable by you only", file.display()));
            show_key(key.public(), output);
        }
        KeyCommand::Show { file: Some(file) } => show_key(&public_key(file)?, output),
        KeyCommand::Show { file: None } => show_key(&public_key(setup.key_file()?)?, output),
    }
    Ok(0)
}

fn show_key(key: &PublicKey, output: &Output) {
    let digest = key.spki_sha256();
    let algorithm = match key.algorithm() {
        KeyAlgorithm::EcdsaP256Sha256 => "p256",
        KeyAlgorithm::Ed25519 => "ed25519",
    };
    if output.is_json() {
        output.document(&json!({"digest": digest, "type": algorithm, "public": public_pem(key)}));
    } else {
        output.data(&format!("{digest}\n{}", public_pem(key)));
    }
}

/// The public part of a key file, which may hold a private or a public key.
pub(crate) fn public_key(file: &Path) -> Result<PublicKey, Failure> {
    let bytes = read_file(file, MAX_KEY_FILE, "key")?;
    let text = String::from_utf8_lossy(&bytes);
    let Some((_, rest)) = text.split_once("-----BEGIN PUBLIC KEY-----") else {
        return Ok(CallerKey::load(file)?.public().clone());
    };
    let body = rest.split("-----END PUBLIC KEY-----").next().unwrap_or(rest);
    let compact: String = body.split_ascii_whitespace().collect();
    let der =
        STANDARD.decode(compact).map_err(|_| Failure::usage("the PEM is not base64").at(file.display()))?;
    PublicKey::from_spki_der(&der).map_err(|e| Failure::usage(e).at(file.display()))
}

/// `sealwright project new|show`.
pub(crate) fn project(command: &ProjectCommand, setup: &Setup, output: &Output) -> Result<u8, Failure> {
    match command {
        ProjectCommand::New { name, members } => {
            let members: Result<Vec<Sha256Digest>, Failure> =
                members.iter().map(|text| member(text)).collect();
            let project = Project::new(name, members?).map_err(Failure::usage)?;
            let mut document = project.document();
            document.push(b'\n');
            output.data(&String::from_utf8_lossy(&document));
            output.status(
                "project",
                &format!("{} with {}", project.id(), counted(project.members.len() as u64, "member")),
            );
        }
        ProjectCommand::Show { file } => {
            // A document can be shown by anybody; without one the project is that of the own key.
            let project = match file.clone().or_else(|| setup.project_file()) {
                Some(file) => read_project(&file)?,
                None => setup.project(&setup.key()?)?,
            };
            if output.is_json() {
                output.document(&json!({
                    "id": project.id().to_string(),
                    "name": project.name,
                    "members": project.members,
                    "document": String::from_utf8_lossy(&project.document()),
                }));
            } else {
                let mut text = format!("id         {}\nname       {}\n", project.id(), project.name);
                for member in &project.members {
                    text.push_str(&format!("member     {member}\n"));
                }
                output.data(&text);
            }
        }
    }
    Ok(0)
}

fn member(text: &str) -> Result<Sha256Digest, Failure> {
    if text.starts_with("sha256:") {
        return text.parse().map_err(Failure::usage);
    }
    Ok(public_key(Path::new(text))?.spki_sha256())
}
