//! Publishing: from signed parts to an OCI layout and to registries.
//!
//! Inside the TCB. It decides nothing about trust: what it writes was signed before it gets here. Its promise
//! is order: a tag appears in a registry only after the image, its signatures, its provenance and its Evidence
//! are there, and a result directory appears only whole.
//!
//! [`artefacts`] makes the small manifests beside the image, [`layout`] writes and reads the result, and
//! [`name`] parses image names, and [`registry`] pushes.

pub mod artefacts;
pub mod layout;
pub mod name;
pub mod oci;
pub mod registry;

pub use artefacts::{Artefacts, SignedImageParts};
pub use layout::{LayoutError, ResultLayout, read_layout, write_layout};
pub use name::{ImageName, InvalidImageName};
pub use registry::{Publisher, PublisherConfig, PushError, Pushed};
