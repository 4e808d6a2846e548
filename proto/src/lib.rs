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

/// The subset of BuildKit's API that we speak, in modules named like the wire packages.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub mod buildkit {
    pub mod pb {
        include!("generated/pb.rs");
    }
    pub mod google {
        pub mod rpc {
            include!("generated/google.rpc.rs");
        }
    }
    pub mod fsutil {
        pub mod types {
            include!("generated/fsutil.types.rs");
        }
    }
    pub mod containerd {
        pub mod services {
            pub mod content {
                pub mod v1 {
                    include!("generated/containerd.services.content.v1.rs");
                }
            }
        }
    }
    pub mod moby {
        pub mod buildkit {
            pub mod v1 {
                include!("generated/moby.buildkit.v1.rs");
                pub mod types {
                    include!("generated/moby.buildkit.v1.types.rs");
                }
                pub mod frontend {
                    include!("generated/moby.buildkit.v1.frontend.rs");
                }
                pub mod sourcepolicy {
                    include!("generated/moby.buildkit.v1.sourcepolicy.rs");
                    pub mod policysession {
                        include!("generated/moby.buildkit.v1.sourcepolicy.policysession.rs");
                    }
                }
            }
            pub mod secrets {
                pub mod v1 {
                    include!("generated/moby.buildkit.secrets.v1.rs");
                }
            }
        }
        pub mod filesync {
            pub mod v1 {
                include!("generated/moby.filesync.v1.rs");
            }
        }
        pub mod sshforward {
            pub mod v1 {
                include!("generated/moby.sshforward.v1.rs");
            }
        }
    }
    /// File descriptor set of the subset, for the comparison with a real daemon's reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/buildkit.bin");
}
