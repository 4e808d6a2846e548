//! The shared vocabulary of Sealwright, used inside the guest (the TCB) and by Relying Parties alike.
//!
//! Everything here is pure: bytes in, typed values out. There is no I/O, no clock, no private key, no
//! generated wire type. Values that come from outside are built only by parsing; a wrong length, an unknown
//! field or a non-canonical encoding is an error, never padded, truncated or ignored.
//!
//! One build, followed through the modules: [`request`] (what the caller signed) → [`context`] (the source
//! it names) → [`materials`] (what went in) → [`statement`] (in-toto / SLSA provenance) → [`binding`] (the
//! leaf and report data that the hardware signs) → [`evidence`] (the envelope that carries it).

pub mod azure;
pub mod binding;
pub mod canonical;
pub mod certificate;
pub mod challenge;
pub mod commitment;
pub mod context;
pub mod digest;
pub mod dsse;
pub mod evidence;
pub mod frame;
pub mod ignore;
pub mod instance;
pub mod key;
pub mod layout;
pub mod materials;
pub mod platform;
pub mod project;
pub mod repository;
pub mod request;
pub mod se_exchange;
pub mod secure_execution;
pub mod sigstore;
pub mod statement;
pub mod tdx_endorsements;
pub mod timestamp;
