//! The wire: the `sealwright.v1` API and the subset of BuildKit's API that we speak.
//!
//! Generated code is committed under `src/generated`; `cargo test -p sealwright-proto` generates it again and
//! fails on a difference (`UPDATE_GENERATED=1` writes it). No decision is made here. Generated types stop at
//! the edge of their user: `TryFrom` and constructors turn them into the types of `provenance`.
#![forbid(unsafe_code)]

/// `sealwright.v1`, our own API.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub mod v1 {
    include!("generated/sealwright.v1.rs");
}

/// File descriptor set of `sealwright.v1`, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/sealwright.v1.bin");
