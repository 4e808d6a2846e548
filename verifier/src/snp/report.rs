//! The SEV-SNP attestation report, read from its raw bytes: ATTESTATION_REPORT of the SEV Secure Nested Paging
//! Firmware ABI Specification (AMD publication 56860, revision 1.58), §7.3 and Table 23. All integers are
//! little-endian.
//!
//! Versions: 2 (firmware 1.51 on) has no CPUID fields; 3 adds them at 0x188; 5 adds the mitigation vectors at
//! 0x1f8. Version 4 lies between and no genuine one is public: it is read with the layout of 5, so that
//! mitigation vectors are neither demanded nor forbidden in it. Other versions are refused.

/// Length of a report in bytes.
pub const REPORT_LEN: usize = 1184;
/// Length of its signed part, which the signature follows.
pub const SIGNED_LEN: usize = 0x2a0;

/// Offsets of the fields, in bytes.
pub mod offset {
    provenance::layout! {
        /// VERSION, u32.
        pub const VERSION: usize = 0x000;
        /// GUEST_SVN, u32.
        pub const GUEST_SVN: usize = 0x004;
        /// POLICY (guest policy, Table 9), u64.
        pub const POLICY: usize = 0x008;
        /// FAMILY_ID, 16 bytes.
        pub const FAMILY_ID: usize = 0x010;
        /// IMAGE_ID, 16 bytes.
        pub const IMAGE_ID: usize = 0x020;
        /// VMPL, u32.
        pub const VMPL: usize = 0x030;
        /// SIGNATURE_ALGO, u32: 1 is ECDSA P-384 with SHA-384 (Table 138).
        pub const SIGNATURE_ALGO: usize = 0x034;
        /// CURRENT_TCB, 8 bytes.
        pub const CURRENT_TCB: usize = 0x038;
        /// PLATFORM_INFO (Table 24), u64.
        pub const PLATFORM_INFO: usize = 0x040;
        /// KEY_INFO: AUTHOR_KEY_EN bit 0, MASK_CHIP_KEY bit 1, SIGNING_KEY bits 2 to 4, u32.
        pub const KEY_INFO: usize = 0x048;
        /// Reserved, 4 bytes, zero.
        pub const RESERVED_4C: usize = 0x04c;
        /// REPORT_DATA, 64 bytes.
        pub const REPORT_DATA: usize = 0x050;
        /// MEASUREMENT, 48 bytes.
        pub const MEASUREMENT: usize = 0x090;
        /// HOST_DATA, 32 bytes.
        pub const HOST_DATA: usize = 0x0c0;
        /// ID_KEY_DIGEST, 48 bytes.
        pub const ID_KEY_DIGEST: usize = 0x0e0;
        /// AUTHOR_KEY_DIGEST, 48 bytes.
        pub const AUTHOR_KEY_DIGEST: usize = 0x110;
        /// REPORT_ID, 32 bytes.
        pub const REPORT_ID: usize = 0x140;
        /// REPORT_ID_MA, 32 bytes.
        pub const REPORT_ID_MA: usize = 0x160;
        /// REPORTED_TCB, 8 bytes.
        pub const REPORTED_TCB: usize = 0x180;
        /// CPUID_FAM_ID, CPUID_MOD_ID, CPUID_STEP: a byte each, from version 3 on; reserved before.
        pub const CPUID: usize = 0x188;
        /// Reserved up to CHIP_ID from version 3 on.
        pub const RESERVED_18B: usize = 0x18b;
        /// CHIP_ID, 64 bytes (Turin: 8 bytes, then zeros).
        pub const CHIP_ID: usize = 0x1a0;
        /// COMMITTED_TCB, 8 bytes.
        pub const COMMITTED_TCB: usize = 0x1e0;
        /// CURRENT_BUILD, CURRENT_MINOR, CURRENT_MAJOR, reserved: a byte each.
        pub const CURRENT_VERSION: usize = 0x1e8;
        /// COMMITTED_BUILD, COMMITTED_MINOR, COMMITTED_MAJOR, reserved: a byte each.
        pub const COMMITTED_VERSION: usize = 0x1ec;
        /// LAUNCH_TCB, 8 bytes.
        pub const LAUNCH_TCB: usize = 0x1f0;
        /// LAUNCH_MIT_VECTOR, u64, from version 5 on.
        pub const LAUNCH_MITIGATIONS: usize = 0x1f8;
        /// CURRENT_MIT_VECTOR, u64, from version 5 on.
        pub const CURRENT_MITIGATIONS: usize = 0x200;
        /// Reserved up to the signature from version 5 on.
        pub const RESERVED_208: usize = 0x208;
        /// SIGNATURE: R then S, 72 bytes each, little-endian; then reserved zeros (Table 140).
        pub const SIGNATURE: usize = 0x2a0;
        /// S of the signature.
        pub const SIGNATURE_S: usize = 0x2e8;
        /// Reserved zeros after the signature.
        pub const SIGNATURE_END: usize = 0x330;
    }
}

/// Bits of the guest policy (Table 9).
pub mod guest_policy {
    /// The guest may run where SMT is on.
    pub const SMT: u64 = 1 << 16;
    /// Reserved, always one.
    pub const RESERVED_ONE: u64 = 1 << 17;
    /// A migration agent may be associated.
    pub const MIGRATE_MA: u64 = 1 << 18;
    /// The host may debug: read and write the guest's memory.
    pub const DEBUG: u64 = 1 << 19;
    /// The guest runs on one socket only.
    pub const SINGLE_SOCKET: u64 = 1 << 20;
    /// CXL devices or memory may be populated.
    pub const CXL_ALLOW: u64 = 1 << 21;
    /// AES-256-XTS is required for memory encryption.
    pub const MEM_AES_256_XTS: u64 = 1 << 22;
    /// Running average power limit is disabled.
    pub const RAPL_DIS: u64 = 1 << 23;
    /// Ciphertext hiding for DRAM is required.
    pub const CIPHERTEXT_HIDING: u64 = 1 << 24;
    /// Page swap commands are disabled.
    pub const PAGE_SWAP_DISABLE: u64 = 1 << 25;
    /// Bits that the specification defines; all others must be zero.
    pub const KNOWN: u64 = 0x03ff_ffff;
}

/// Bits of PLATFORM_INFO (Table 24).
pub mod platform_info {
    /// SMT is on.
    pub const SMT_EN: u64 = 1;
    /// Transparent SME is on: all memory is encrypted, the host's too.
    pub const TSME_EN: u64 = 1 << 1;
    /// ECC memory is in use.
    pub const ECC_EN: u64 = 1 << 2;
    /// Running average power limit is disabled.
    pub const RAPL_DIS: u64 = 1 << 3;
    /// Ciphertext hiding for DRAM is on.
    pub const CIPHERTEXT_HIDING: u64 = 1 << 4;
    /// The check for aliased memory addresses has completed since the last reset.
    pub const ALIAS_CHECK_COMPLETE: u64 = 1 << 5;
    /// Trusted I/O is on: devices may be let into guests.
    pub const TIO_EN: u64 = 1 << 7;
}

/// Which key signed (KEY_INFO.SIGNING_KEY).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigningKey {
    /// Versioned Chip Endorsement Key: of this chip.
    Vcek,
    /// Versioned Loaded Endorsement Key: of a cloud provider.
    Vlek,
}

impl SigningKey {
    /// Its name in AMD's documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vcek => "VCEK",
            Self::Vlek => "VLEK",
        }
    }
}

/// Why bytes are no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// Not exactly [`REPORT_LEN`] bytes.
    #[error("SEV-SNP report has {got} bytes, wanted exactly {REPORT_LEN}")]
    Length {
        /// Bytes seen.
        got: usize,
    },
    /// A version whose layout is not known.
    #[error("SEV-SNP report version is {got}, wanted 2 to 5 (report offset 0x0)")]
    Version {
        /// The version seen.
        got: u32,
    },
    /// Reserved bytes are not zero.
    #[error("reserved byte of the SEV-SNP report is {got:#04x}, wanted 0 (report offset {offset:#x})")]
    Reserved {
        /// Offset of the byte.
        offset: usize,
        /// The byte seen.
        got: u8,
    },
    /// Reserved bits of the guest policy are not as they must be.
    #[error("guest policy is {got:#x}: bit 17 must be set and bits 26 to 63 clear (report offset 0x8)")]
    GuestPolicy {
        /// The guest policy seen.
        got: u64,
    },
    /// VMPL outside 0 to 3.
    #[error("VMPL is {got}, wanted 0 to 3 (report offset 0x30)")]
    Vmpl {
        /// The VMPL seen.
        got: u32,
    },
    /// Another signature algorithm.
    #[error("signature algorithm is {got}, wanted 1, ECDSA P-384 with SHA-384 (report offset 0x34)")]
    SignatureAlgorithm {
        /// The algorithm seen.
        got: u32,
    },
    /// Nobody signed the report: SIGNING_KEY is 7 or the chip's key is masked.
    #[error("report is not signed: KEY_INFO is {key_info:#x} (report offset 0x48)")]
    Unsigned {
        /// KEY_INFO seen.
        key_info: u32,
    },
    /// A signing key or reserved bits of KEY_INFO that are not known.
    #[error(
        "KEY_INFO is {key_info:#x}: signing key must be 0 (VCEK) or 1 (VLEK), bits 5 to 31 clear (report offset 0x48)"
    )]
    KeyInfo {
        /// KEY_INFO seen.
        key_info: u32,
    },
}

/// A parsed report: form checked, nothing believed. Fields keep the specification's names.
#[derive(Clone, PartialEq, Eq)]
pub struct Report {
    raw: Box<[u8; REPORT_LEN]>,
    signing_key: SigningKey,
}

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Report(version {}, measurement {})", self.version(), hex::encode(self.measurement()))
    }
}

impl Report {
    /// Parses exactly [`REPORT_LEN`] bytes; checks what is needed to check the signature, and what it leaves out.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReportError> {
        let raw: Box<[u8; REPORT_LEN]> = bytes
            .to_vec()
            .into_boxed_slice()
            .try_into()
            .map_err(|_| ReportError::Length { got: bytes.len() })?;
        let mut report = Self { raw, signing_key: SigningKey::Vcek };
        let version = report.version();
        if !(2..=5).contains(&version) {
            return Err(ReportError::Version { got: version });
        }
        // P-384 integers fill 48 of the 72 bytes of R and S. Nothing signs what follows, so it must say nothing.
        report.check_zero(&[
            (offset::SIGNATURE + 48, offset::SIGNATURE_S),
            (offset::SIGNATURE_S + 48, offset::SIGNATURE_END),
            (offset::SIGNATURE_END, REPORT_LEN),
        ])?;
        let algorithm = report.u32(offset::SIGNATURE_ALGO);
        if algorithm != 1 {
            return Err(ReportError::SignatureAlgorithm { got: algorithm });
        }
        let key_info = report.u32(offset::KEY_INFO);
        report.signing_key = match (key_info >> 2) & 0b111 {
            _ if key_info >> 5 != 0 => return Err(ReportError::KeyInfo { key_info }),
            _ if key_info & 0b10 != 0 => return Err(ReportError::Unsigned { key_info }),
            0 => SigningKey::Vcek,
            1 => SigningKey::Vlek,
            7 => return Err(ReportError::Unsigned { key_info }),
            _ => return Err(ReportError::KeyInfo { key_info }),
        };
        Ok(report)
    }

    /// Checks the reserved fields of the signed part. Called after the signature, so that a changed byte is
    /// reported as what it is, a broken signature.
    pub(super) fn check_signed_form(&self) -> Result<(), ReportError> {
        let cpuid = if self.version() >= 3 { offset::RESERVED_18B } else { offset::CPUID };
        let tail = if self.version() >= 4 { offset::RESERVED_208 } else { offset::LAUNCH_MITIGATIONS };
        self.check_zero(&[
            (offset::RESERVED_4C, offset::REPORT_DATA),
            (cpuid, offset::CHIP_ID),
            (offset::CURRENT_VERSION + 3, offset::COMMITTED_VERSION),
            (offset::COMMITTED_VERSION + 3, offset::LAUNCH_TCB),
            (tail, offset::SIGNATURE),
        ])?;
        let policy = self.guest_policy();
        if policy & guest_policy::RESERVED_ONE == 0 || policy & !guest_policy::KNOWN != 0 {
            return Err(ReportError::GuestPolicy { got: policy });
        }
        if self.vmpl() > 3 {
            return Err(ReportError::Vmpl { got: self.vmpl() });
        }
        Ok(())
    }

    fn check_zero(&self, ranges: &[(usize, usize)]) -> Result<(), ReportError> {
        for (start, end) in ranges {
            if let Some(at) = self.raw[*start..*end].iter().position(|byte| *byte != 0) {
                return Err(ReportError::Reserved { offset: start + at, got: self.raw[start + at] });
            }
        }
        Ok(())
    }

    fn array<const N: usize>(&self, at: usize) -> &[u8; N] {
        self.raw[at..at + N].try_into().expect("all offsets lie inside the report")
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(*self.array(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(*self.array(at))
    }

    /// VERSION, 2 to 5.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.u32(offset::VERSION)
    }

    /// GUEST_SVN.
    #[must_use]
    pub fn guest_svn(&self) -> u32 {
        self.u32(offset::GUEST_SVN)
    }

    /// POLICY, see [`guest_policy`].
    #[must_use]
    pub fn guest_policy(&self) -> u64 {
        self.u64(offset::POLICY)
    }

    /// VMPL that asked for the report, 0 to 3.
    #[must_use]
    pub fn vmpl(&self) -> u32 {
        self.u32(offset::VMPL)
    }

    /// PLATFORM_INFO, see [`platform_info`].
    #[must_use]
    pub fn platform_info(&self) -> u64 {
        self.u64(offset::PLATFORM_INFO)
    }

    /// The key that signed.
    #[must_use]
    pub fn signing_key(&self) -> SigningKey {
        self.signing_key
    }

    /// REPORT_DATA.
    #[must_use]
    pub fn report_data(&self) -> &[u8; 64] {
        self.array(offset::REPORT_DATA)
    }

    /// MEASUREMENT at launch.
    #[must_use]
    pub fn measurement(&self) -> &[u8; 48] {
        self.array(offset::MEASUREMENT)
    }

    /// HOST_DATA.
    #[must_use]
    pub fn host_data(&self) -> &[u8; 32] {
        self.array(offset::HOST_DATA)
    }

    /// ID_KEY_DIGEST.
    #[must_use]
    pub fn id_key_digest(&self) -> &[u8; 48] {
        self.array(offset::ID_KEY_DIGEST)
    }

    /// AUTHOR_KEY_DIGEST.
    #[must_use]
    pub fn author_key_digest(&self) -> &[u8; 48] {
        self.array(offset::AUTHOR_KEY_DIGEST)
    }

    /// REPORT_ID.
    #[must_use]
    pub fn report_id(&self) -> &[u8; 32] {
        self.array(offset::REPORT_ID)
    }

    /// REPORT_ID_MA of the migration agent, all ones when there is none.
    #[must_use]
    pub fn report_id_ma(&self) -> &[u8; 32] {
        self.array(offset::REPORT_ID_MA)
    }

    /// FAMILY_ID.
    #[must_use]
    pub fn family_id(&self) -> &[u8; 16] {
        self.array(offset::FAMILY_ID)
    }

    /// IMAGE_ID.
    #[must_use]
    pub fn image_id(&self) -> &[u8; 16] {
        self.array(offset::IMAGE_ID)
    }

    /// CHIP_ID, all zero when the platform masks it.
    #[must_use]
    pub fn chip_id(&self) -> &[u8; 64] {
        self.array(offset::CHIP_ID)
    }

    /// CURRENT_TCB, raw.
    #[must_use]
    pub fn current_tcb(&self) -> &[u8; 8] {
        self.array(offset::CURRENT_TCB)
    }

    /// REPORTED_TCB, raw: the TCB that the signing key is versioned with.
    #[must_use]
    pub fn reported_tcb(&self) -> &[u8; 8] {
        self.array(offset::REPORTED_TCB)
    }

    /// COMMITTED_TCB, raw: the platform cannot be rolled back below it.
    #[must_use]
    pub fn committed_tcb(&self) -> &[u8; 8] {
        self.array(offset::COMMITTED_TCB)
    }

    /// LAUNCH_TCB, raw: CURRENT_TCB when the guest was launched.
    #[must_use]
    pub fn launch_tcb(&self) -> &[u8; 8] {
        self.array(offset::LAUNCH_TCB)
    }

    /// Family, model and stepping of the CPU; all zero in version 2, which has no such fields.
    #[must_use]
    pub fn cpuid(&self) -> &[u8; 3] {
        self.array(offset::CPUID)
    }

    /// Current firmware version (major, minor, build).
    #[must_use]
    pub fn current_version(&self) -> (u8, u8, u8) {
        let [build, minor, major] = *self.array(offset::CURRENT_VERSION);
        (major, minor, build)
    }

    /// Committed firmware version (major, minor, build).
    #[must_use]
    pub fn committed_version(&self) -> (u8, u8, u8) {
        let [build, minor, major] = *self.array(offset::COMMITTED_VERSION);
        (major, minor, build)
    }

    /// LAUNCH_MIT_VECTOR, zero before version 5.
    #[must_use]
    pub fn launch_mitigations(&self) -> u64 {
        self.u64(offset::LAUNCH_MITIGATIONS)
    }

    /// CURRENT_MIT_VECTOR, zero before version 5.
    #[must_use]
    pub fn current_mitigations(&self) -> u64 {
        self.u64(offset::CURRENT_MITIGATIONS)
    }

    /// The raw bytes that the signature covers, [`SIGNED_LEN`] of them.
    #[must_use]
    pub fn signed_bytes(&self) -> &[u8] {
        &self.raw[..SIGNED_LEN]
    }

    /// The signature as R ‖ S, 48 bytes each, big-endian (FIPS 186-5).
    #[must_use]
    pub fn signature(&self) -> [u8; 96] {
        let mut out = [0; 96];
        out[..48].copy_from_slice(self.array::<48>(offset::SIGNATURE));
        out[48..].copy_from_slice(self.array::<48>(offset::SIGNATURE_S));
        out[..48].reverse();
        out[48..].reverse();
        out
    }
}
