//! ATTESTATION_REPORT (SEV-SNP ABI 56860, table 23), versions 2, 3 and 5, field by field. NOT HARDWARE.

use super::{Product, Tcb};

/// Bytes that the signature covers.
pub const SIGNED_LEN: usize = 0x2a0;
/// Length of a report.
pub const REPORT_LEN: usize = 0x4a0;
/// Length of R and of S in the signature, little-endian.
pub const SIGNATURE_PART_LEN: usize = 72;

/// Fields of a report before it is signed. All may be altered; nothing is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportFields {
    /// Version at 0x00.
    pub version: u32,
    /// GUEST_SVN at 0x04.
    pub guest_svn: u32,
    /// POLICY at 0x08; bit 17 is always one, 16 SMT, 18 MIGRATE_MA, 19 DEBUG.
    pub policy: u64,
    /// FAMILY_ID at 0x10.
    pub family_id: [u8; 16],
    /// IMAGE_ID at 0x20.
    pub image_id: [u8; 16],
    /// VMPL at 0x30.
    pub vmpl: u32,
    /// SIGNATURE_ALGO at 0x34; 1 is ECDSA P-384 with SHA-384.
    pub signature_algo: u32,
    /// CURRENT_TCB at 0x38.
    pub current_tcb: [u8; 8],
    /// PLATFORM_INFO at 0x40.
    pub platform_info: u64,
    /// Bits at 0x48: 0 AUTHOR_KEY_EN, 1 MASK_CHIP_KEY, 2..=4 SIGNING_KEY (0 VCEK, 1 VLEK, 7 none).
    pub key_info: u32,
    /// REPORT_DATA at 0x50.
    pub report_data: [u8; 64],
    /// MEASUREMENT at 0x90.
    pub measurement: [u8; 48],
    /// HOST_DATA at 0xc0.
    pub host_data: [u8; 32],
    /// ID_KEY_DIGEST at 0xe0.
    pub id_key_digest: [u8; 48],
    /// AUTHOR_KEY_DIGEST at 0x110.
    pub author_key_digest: [u8; 48],
    /// REPORT_ID at 0x140.
    pub report_id: [u8; 32],
    /// REPORT_ID_MA at 0x160; all ones without a migration agent.
    pub report_id_ma: [u8; 32],
    /// REPORTED_TCB at 0x180.
    pub reported_tcb: [u8; 8],
    /// CPUID family, model, stepping at 0x188 (version 3 on).
    pub cpuid: [u8; 3],
    /// CHIP_ID at 0x1a0.
    pub chip_id: [u8; 64],
    /// COMMITTED_TCB at 0x1e0.
    pub committed_tcb: [u8; 8],
    /// Current build, minor, major at 0x1e8.
    pub current_version: [u8; 3],
    /// Committed build, minor, major at 0x1ec.
    pub committed_version: [u8; 3],
    /// LAUNCH_TCB at 0x1f0.
    pub launch_tcb: [u8; 8],
    /// LAUNCH_MIT_VECTOR at 0x1f8 (version 5).
    pub launch_mitigations: u64,
    /// CURRENT_MIT_VECTOR at 0x200 (version 5).
    pub current_mitigations: u64,
}

impl ReportFields {
    /// What a healthy chip of this product reports.
    pub(super) fn of(product: Product, tcb: Tcb, chip_id: [u8; 64], vlek: bool) -> Self {
        let tcb = tcb.encode();
        let mitigations = if product == Product::Turin { 0x3f } else { 0 };
        Self {
            version: if product == Product::Turin { 5 } else { 3 },
            guest_svn: 0,
            policy: 0x3_0000,
            family_id: [0; 16],
            image_id: [0; 16],
            vmpl: 0,
            signature_algo: 1,
            current_tcb: tcb,
            platform_info: if product == Product::Turin { 0x65 } else { 0x25 },
            key_info: u32::from(vlek) << 2,
            report_data: [0; 64],
            measurement: super::DANGEROUS_SOFTWARE_MEASUREMENT,
            host_data: [0; 32],
            id_key_digest: [0; 48],
            author_key_digest: [0; 48],
            report_id: [0; 32],
            report_id_ma: [0xff; 32],
            reported_tcb: tcb,
            cpuid: match product {
                Product::Milan => [0x19, 0x01, 0x01],
                Product::Genoa => [0x19, 0x11, 0x01],
                Product::Turin => [0x1a, 0x02, 0x01],
            },
            // A VLEK belongs to the provider, and such reports hide the chip.
            chip_id: if vlek { [0; 64] } else { chip_id },
            committed_tcb: tcb,
            current_version: [0x1d, 0x37, 0x01],
            committed_version: [0x1d, 0x37, 0x01],
            launch_tcb: tcb,
            launch_mitigations: mitigations,
            current_mitigations: mitigations,
        }
    }

    /// The bytes that are signed. What a version does not have is zero.
    #[must_use]
    pub fn encode(&self) -> [u8; SIGNED_LEN] {
        let mut out = [0; SIGNED_LEN];
        let mut put = |offset: usize, bytes: &[u8]| out[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0x00, &self.version.to_le_bytes());
        put(0x04, &self.guest_svn.to_le_bytes());
        put(0x08, &self.policy.to_le_bytes());
        put(0x10, &self.family_id);
        put(0x20, &self.image_id);
        put(0x30, &self.vmpl.to_le_bytes());
        put(0x34, &self.signature_algo.to_le_bytes());
        put(0x38, &self.current_tcb);
        put(0x40, &self.platform_info.to_le_bytes());
        put(0x48, &self.key_info.to_le_bytes());
        put(0x50, &self.report_data);
        put(0x90, &self.measurement);
        put(0xc0, &self.host_data);
        put(0xe0, &self.id_key_digest);
        put(0x110, &self.author_key_digest);
        put(0x140, &self.report_id);
        put(0x160, &self.report_id_ma);
        put(0x180, &self.reported_tcb);
        if self.version >= 3 {
            put(0x188, &self.cpuid);
        }
        put(0x1a0, &self.chip_id);
        put(0x1e0, &self.committed_tcb);
        put(0x1e8, &self.current_version);
        put(0x1ec, &self.committed_version);
        put(0x1f0, &self.launch_tcb);
        if self.version >= 5 {
            put(0x1f8, &self.launch_mitigations.to_le_bytes());
            put(0x200, &self.current_mitigations.to_le_bytes());
        }
        out
    }
}
