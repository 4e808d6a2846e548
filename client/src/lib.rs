//! SDK and parts of the `sealwright` command: submit a build, watch it, fetch its result, verify an image.
//!
//! RATS role: Relying Party, outside the TCB. All of the Relying Party's input and output is here; every
//! decision about trust is made by `verifier`, and nothing here may replace or skip it: a build's source,
//! parameters and secrets leave only through an [`channel::AttestedChannel`], which exists only after the
//! verifier accepted the other end of that very connection.
#![forbid(unsafe_code)]

pub mod agent;
pub mod attestation_request;
pub mod channel;
pub mod config;
pub mod context;
pub mod docker_config;
mod dockerfile_images;
pub mod download;
pub mod endorsements;
pub mod image;
pub mod image_name;
pub mod key;
pub mod layout_context;
pub mod own_files;
pub mod progress;
pub mod regular_file;
pub mod request;
pub mod session;
pub mod spec;
mod tls;
