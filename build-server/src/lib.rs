//! Placeholder: work in progress.
pub mod publish;
