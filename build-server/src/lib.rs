//! Placeholder: work in progress.
pub mod publish;
pub mod api;
pub mod context_store;
pub mod jobs;
pub mod secrets;
pub mod config;
pub mod service;
