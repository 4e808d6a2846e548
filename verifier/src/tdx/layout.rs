//! Where the fields of a quote stand (Intel TDX DCAP Quoting Library API, Appendix A). Parser and tests use the same
//! tables.

/// Offsets of the header's fields in the quote, in bytes (Appendix A.3.1).
pub mod header {
    provenance::layout! {
        /// VERSION, u16.
        pub const VERSION: usize = 0;
        /// Attestation key type, u16.
        pub const ATTESTATION_KEY_TYPE: usize = 2;
        /// TEE type, u32.
        pub const TEE_TYPE: usize = 4;
        /// Reserved, 4 bytes, zero.
        pub const RESERVED: usize = 8;
        /// QE vendor id, 16 bytes.
        pub const QE_VENDOR_ID: usize = 12;
        /// User data, 20 bytes; the first 16 identify the platform that quotes, chosen by the host.
        pub const USER_DATA: usize = 28;
        /// Version 5: body type, u16.
        pub const BODY_TYPE: usize = 48;
        /// Version 5: body size, u32.
        pub const BODY_SIZE: usize = 50;
        /// Version 5: the body. In version 4 it follows the header at 48.
        pub const BODY_V5: usize = 54;
    }
}

/// Offsets of the body's fields from its start, in bytes (Appendix A.3.2, A.3.3).
pub mod body {
    provenance::layout! {
        /// TEE_TCB_SVN: SVNs of the TDX module and its surroundings when the TD was launched, 16 bytes.
        pub const TEE_TCB_SVN: usize = 0;
        /// MRSEAM: measurement of the TDX module, 48 bytes.
        pub const MRSEAM: usize = 16;
        /// MRSIGNERSEAM: signer of the TDX module, 48 bytes, zero for Intel's.
        pub const MRSIGNERSEAM: usize = 64;
        /// SEAMATTRIBUTES, 8 bytes.
        pub const SEAMATTRIBUTES: usize = 112;
        /// TDATTRIBUTES, 8 bytes.
        pub const TDATTRIBUTES: usize = 120;
        /// XFAM: extended features that the TD may use, 8 bytes.
        pub const XFAM: usize = 128;
        /// MRTD: measurement of the TD at its launch, 48 bytes.
        pub const MRTD: usize = 136;
        /// MRCONFIGID: the host's word about the TD's configuration, 48 bytes.
        pub const MRCONFIGID: usize = 184;
        /// MROWNER: the host's word about the owner, 48 bytes.
        pub const MROWNER: usize = 232;
        /// MROWNERCONFIG: the host's word about the owner's configuration, 48 bytes.
        pub const MROWNERCONFIG: usize = 280;
        /// RTMR0 to RTMR3: measurement registers that the TD extends, 48 bytes each.
        pub const RTMR0: usize = 328;
        /// REPORTDATA, 64 bytes.
        pub const REPORTDATA: usize = 520;
        /// TD 1.5: TEE_TCB_SVN2, the SVNs at the time of the quote, 16 bytes.
        pub const TEE_TCB_SVN2: usize = 584;
        /// TD 1.5: MRSERVICETD, hash of the service TDs bound to this one, 48 bytes.
        pub const MRSERVICETD: usize = 600;
    }
}

/// Offsets of the signature data's fields from its start, which is after its length, in bytes (Appendix A.3.8).
pub mod signature_data {
    provenance::layout! {
        /// ECDSA signature of header and body, R ‖ S, 64 bytes.
        pub const SIGNATURE: usize = 0;
        /// Attestation key, X ‖ Y, 64 bytes.
        pub const ATTESTATION_KEY: usize = 64;
        /// Type of the certification data, u16.
        pub const CERTIFICATION_TYPE: usize = 128;
        /// Size of the certification data, u32.
        pub const CERTIFICATION_SIZE: usize = 130;
        /// Report of the Quoting Enclave, 384 bytes.
        pub const QE_REPORT: usize = 134;
        /// Signature of the Quoting Enclave's report by the PCK, R ‖ S, 64 bytes.
        pub const QE_SIGNATURE: usize = 518;
        /// Size of the Quoting Enclave's authentication data, u16; the data follow.
        pub const QE_AUTH_SIZE: usize = 582;
        /// The Quoting Enclave's authentication data.
        pub const QE_AUTH: usize = 584;
    }
}

/// Offsets of fields of the Quoting Enclave's report from its start, in bytes (Intel SDM volume 3D, REPORT).
pub mod qe_report {
    provenance::layout! {
        /// CPUSVN, 16 bytes.
        pub const CPUSVN: usize = 0;
        /// MISCSELECT, 4 bytes.
        pub const MISCSELECT: usize = 16;
        /// Reserved, 12 bytes, zero.
        pub const RESERVED_20: usize = 20;
        /// ISVEXTPRODID, 16 bytes.
        pub const ISVEXTPRODID: usize = 32;
        /// ATTRIBUTES, 16 bytes.
        pub const ATTRIBUTES: usize = 48;
        /// MRENCLAVE, 32 bytes.
        pub const MRENCLAVE: usize = 64;
        /// Reserved, 32 bytes, zero.
        pub const RESERVED_96: usize = 96;
        /// MRSIGNER, 32 bytes.
        pub const MRSIGNER: usize = 128;
        /// Reserved, 32 bytes, zero.
        pub const RESERVED_160: usize = 160;
        /// CONFIGID, 64 bytes.
        pub const CONFIGID: usize = 192;
        /// ISVPRODID, u16.
        pub const ISVPRODID: usize = 256;
        /// ISVSVN, u16.
        pub const ISVSVN: usize = 258;
        /// CONFIGSVN, u16.
        pub const CONFIGSVN: usize = 260;
        /// Reserved, 42 bytes, zero.
        pub const RESERVED_262: usize = 262;
        /// ISVFAMILYID, 16 bytes.
        pub const ISVFAMILYID: usize = 304;
        /// REPORTDATA: SHA-256 of attestation key and authentication data, then 32 zeros.
        pub const REPORTDATA: usize = 320;
    }
}

/// Bits of TDATTRIBUTES (Intel TDX module ABI specification, ATTRIBUTES).
pub mod td_attributes {
    /// TD under debug: bit 0 is DEBUG, bits 1 to 7 are further ways for the host to see inside, or reserved.
    pub const UNDER_DEBUG: u64 = 0xff;
    /// LASS, linear address space separation.
    pub const LASS: u64 = 1 << 27;
    /// EPT violations do not become exceptions of the TD, so the host cannot remove memory unseen.
    pub const SEPT_VE_DISABLE: u64 = 1 << 28;
    /// The TD may be migrated.
    pub const MIGRATABLE: u64 = 1 << 29;
    /// Supervisor protection keys.
    pub const PKS: u64 = 1 << 30;
    /// Key Locker.
    pub const KL: u64 = 1 << 31;
    /// TPA.
    pub const TPA: u64 = 1 << 62;
    /// Performance monitoring.
    pub const PERFMON: u64 = 1 << 63;
}
