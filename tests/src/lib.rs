//! End to end tests, fixture PKI and the software TEE. NOT HARDWARE; shipped crates never depend on this one.

pub mod harness;
pub mod reference_values;
pub mod registry;
pub mod release_fixture;
pub mod small_disk;
pub mod software_tee;
pub mod timestamping;
pub mod tools;
pub mod vectors;
pub mod vendor_services;
