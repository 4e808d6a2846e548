//! `/dev/sev-guest` (Linux `include/uapi/linux/sev-guest.h`, v5.19; SEV-SNP ABI 56860 chapter 7): attestation reports
//! with the host's certificates, and keys derived from the chip's.
//!
//! The driver wipes the key to the firmware (VMPCK) after any error of firmware or host, because a message that is
//! sent twice under one number would break its encryption. All later requests fail until the next boot, so the first such
//! error ends this device: [`AttesterError::KeyWiped`] from then on, without another call.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use provenance::binding::ReportData;
use provenance::evidence::{Evidence, Platform, certificate_table};
use provenance::instance::KeyOrigin;
use zeroize::Zeroizing;

use super::{BUSY_ATTEMPTS, BlockIndex, Call, IoctlCall, KernelDevice, attempts, read_write_number};
use crate::attester::{Attester, AttesterError, WipedBy};
use crate::own_report::SNP_REPORT_LEN;

/// Byte layouts and numbers of the kernel's header and of the firmware's messages. A test compares the former with the
/// header itself.
pub mod layout {
    use super::read_write_number;

    /// Length of `struct snp_guest_request_ioctl`, the argument of every call.
    pub const REQUEST_LEN: usize = 32;
    /// `msg_version`, u8.
    pub const REQUEST_VERSION: usize = 0;
    /// `req_data`, address.
    pub const REQUEST_DATA: usize = 8;
    /// `resp_data`, address.
    pub const REQUEST_RESPONSE: usize = 16;
    /// `fw_error`, u32: low half of `exitinfo2`.
    pub const REQUEST_FIRMWARE_ERROR: usize = 24;
    /// `vmm_error`, u32: high half of `exitinfo2`.
    pub const REQUEST_HOST_ERROR: usize = 28;

    /// Length of `struct snp_report_req`.
    pub const REPORT_REQUEST_LEN: usize = 96;
    /// `user_data`, 64 bytes.
    pub const REPORT_REQUEST_DATA: usize = 0;
    /// `vmpl`, u32.
    pub const REPORT_REQUEST_VMPL: usize = 64;
    /// Length of `struct snp_report_resp`.
    pub const REPORT_RESPONSE_LEN: usize = 4000;

    /// Length of `struct snp_ext_report_req`, which begins with a `snp_report_req`.
    pub const EXTENDED_REQUEST_LEN: usize = 112;
    /// `certs_address`, address.
    pub const EXTENDED_REQUEST_CERTIFICATES: usize = 96;
    /// `certs_len`, u32.
    pub const EXTENDED_REQUEST_CERTIFICATES_LEN: usize = 104;

    /// Length of `struct snp_derived_key_req` (message version 1).
    pub const KEY_REQUEST_LEN: usize = 32;
    /// `root_key_select`, u32.
    pub const KEY_REQUEST_ROOT: usize = 0;
    /// `guest_field_select`, u64.
    pub const KEY_REQUEST_FIELDS: usize = 8;
    /// `vmpl`, u32.
    pub const KEY_REQUEST_VMPL: usize = 16;
    /// `guest_svn`, u32.
    pub const KEY_REQUEST_GUEST_SVN: usize = 20;
    /// `tcb_version`, u64.
    pub const KEY_REQUEST_TCB: usize = 24;
    /// Length of `struct snp_derived_key_resp`.
    pub const KEY_RESPONSE_LEN: usize = 64;

    /// Both responses: `STATUS`, u32, little-endian (SEV-SNP ABI tables 22 and 19).
    pub const RESPONSE_STATUS: usize = 0;
    /// MSG_REPORT_RSP: `REPORT_SIZE`, u32, little-endian.
    pub const RESPONSE_REPORT_SIZE: usize = 4;
    /// Both responses: report or derived key.
    pub const RESPONSE_CONTENT: usize = 0x20;
    /// Length of a derived key.
    pub const DERIVED_KEY_LEN: usize = 32;

    /// `vmm_error`: the certificate buffer is too short.
    pub const HOST_INVALID_LENGTH: u32 = 1;
    /// `vmm_error`: throttled.
    pub const HOST_BUSY: u32 = 2;

    /// `SNP_GET_REPORT`.
    pub const GET_REPORT: u32 = read_write_number(b'S', 0, REQUEST_LEN);
    /// `SNP_GET_DERIVED_KEY`.
    pub const GET_DERIVED_KEY: u32 = read_write_number(b'S', 1, REQUEST_LEN);
    /// `SNP_GET_EXT_REPORT`.
    pub const GET_EXTENDED_REPORT: u32 = read_write_number(b'S', 2, REQUEST_LEN);
}

/// Version of the messages. Version 2 of MSG_KEY_REQ is longer than the kernel's structure.
const MESSAGE_VERSION: u8 = 1;
/// Buffer for the certificates at first: the longest that drivers up to Linux 6.18 take (SEV_FW_BLOB_MAX_SIZE).
const CERTIFICATES_LEN: usize = 16 << 10;
/// Longest buffer for certificates.
const MAX_CERTIFICATES_LEN: usize = 64 << 10;
/// The driver takes whole pages.
const PAGE: usize = 4096;

/// Bits of `guest_field_select`: what is mixed into a derived key (SEV-SNP ABI table 18).
pub mod field {
    /// The guest's policy: a DEBUG launch of the same image gets another key.
    pub const POLICY: u64 = 1 << 0;
    /// The launch measurement.
    pub const MEASUREMENT: u64 = 1 << 3;
    /// The guest's security version.
    pub const GUEST_SVN: u64 = 1 << 4;
    /// The TCB version of the request.
    pub const TCB_VERSION: u64 = 1 << 5;
}

/// What a key is derived for, under the chip's VCEK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRequest {
    /// Bits of [`field`].
    pub fields: u64,
    /// Not below the guest's own privilege level in privilege.
    pub vmpl: u32,
    /// At most the guest's security version at launch.
    pub guest_svn: u32,
    /// At most COMMITTED_TCB, each component; 8 bytes as in a report.
    pub tcb_version: [u8; 8],
}

/// A derived key, 32 bytes. No `Debug`, no `Clone`: it is to be used up by a key derivation.
pub struct DerivedKey(pub Zeroizing<[u8; layout::DERIVED_KEY_LEN]>);

/// The SEV-SNP guest device.
pub struct SevGuest {
    /// For messages.
    path: PathBuf,
    device: Box<dyn IoctlCall>,
    vmpl: u32,
    wiped: Mutex<Option<WipedBy>>,
}

/// An answer that is no failure of the device.
enum Answer {
    Done,
    /// The host has more certificates; the argument's request says how many bytes.
    CertificatesTooLong,
}

impl SevGuest {
    /// Opens the kernel's device; reports are asked for at this privilege level, which must not be more privileged
    /// than the guest's own.
    pub(crate) fn open(path: &Path, vmpl: u32) -> Result<Self, AttesterError> {
        match KernelDevice::open(path) {
            Ok(device) => Ok(Self::new(path, Box::new(device), vmpl)),
            Err(error) => Err(io_error("open", path, &error)),
        }
    }

    /// A device behind `device`, called `path` in messages.
    #[must_use]
    pub fn new(path: &Path, device: Box<dyn IoctlCall>, vmpl: u32) -> Self {
        Self { path: path.to_owned(), device, vmpl, wiped: Mutex::new(None) }
    }

    /// A report over these 64 bytes, 1184 bytes (SNP_GET_REPORT).
    pub fn report(&self, data: &ReportData) -> Result<Vec<u8>, AttesterError> {
        let mut call = request(layout::GET_REPORT);
        call.attach(0, layout::REQUEST_DATA, self.report_request(data, layout::REPORT_REQUEST_LEN));
        let response = call.attach(0, layout::REQUEST_RESPONSE, vec![0; layout::REPORT_RESPONSE_LEN]);
        match self.perform(&mut call)? {
            Answer::Done => self.read_report(&call, response),
            Answer::CertificatesTooLong => Err(self.wipe(host_error(&call))),
        }
    }

    /// A report and the host's certificate table (SNP_GET_EXT_REPORT), without the padding of its pages; empty when the
    /// host sends none.
    pub fn extended_report(&self, data: &ReportData) -> Result<(Vec<u8>, Vec<u8>), AttesterError> {
        let mut length = CERTIFICATES_LEN;
        let mut grown = false;
        loop {
            let mut bytes = self.report_request(data, layout::EXTENDED_REQUEST_LEN);
            let stated = u32::try_from(length).expect("at most MAX_CERTIFICATES_LEN");
            put(&mut bytes, layout::EXTENDED_REQUEST_CERTIFICATES_LEN, &stated.to_ne_bytes());
            let mut call = request(layout::GET_EXTENDED_REPORT);
            let request = call.attach(0, layout::REQUEST_DATA, bytes);
            let response = call.attach(0, layout::REQUEST_RESPONSE, vec![0; layout::REPORT_RESPONSE_LEN]);
            let certificates = call.attach(request, layout::EXTENDED_REQUEST_CERTIFICATES, vec![0; length]);
            match self.perform(&mut call)? {
                Answer::Done => {
                    let report = self.read_report(&call, response)?;
                    let table = call.block(certificates);
                    let used = certificate_table::used(table)?;
                    return Ok((report, table[..used].to_vec()));
                }
                Answer::CertificatesTooLong => {
                    let field = call.field(request, layout::EXTENDED_REQUEST_CERTIFICATES_LEN);
                    let wanted = u32::from_ne_bytes(field) as usize;
                    let useful =
                        wanted > length && wanted <= MAX_CERTIFICATES_LEN && wanted.is_multiple_of(PAGE);
                    if grown || !useful {
                        let (path, limit) = (self.path.clone(), MAX_CERTIFICATES_LEN);
                        return Err(AttesterError::CertificateBuffer {
                            path,
                            wanted,
                            offered: length,
                            limit,
                        });
                    }
                    (length, grown) = (wanted, true);
                }
            }
        }
    }

    /// A key derived from the chip's VCEK (SNP_GET_DERIVED_KEY).
    pub fn derived_key(&self, wanted: &KeyRequest) -> Result<DerivedKey, AttesterError> {
        let mut bytes = vec![0; layout::KEY_REQUEST_LEN];
        // Root key 0 is the VCEK.
        put(&mut bytes, layout::KEY_REQUEST_FIELDS, &wanted.fields.to_ne_bytes());
        put(&mut bytes, layout::KEY_REQUEST_VMPL, &wanted.vmpl.to_ne_bytes());
        put(&mut bytes, layout::KEY_REQUEST_GUEST_SVN, &wanted.guest_svn.to_ne_bytes());
        put(&mut bytes, layout::KEY_REQUEST_TCB, &wanted.tcb_version);
        let mut call = request(layout::GET_DERIVED_KEY);
        call.attach(0, layout::REQUEST_DATA, bytes);
        let response = call.attach(0, layout::REQUEST_RESPONSE, vec![0; layout::KEY_RESPONSE_LEN]);
        match self.perform(&mut call)? {
            Answer::Done => {}
            Answer::CertificatesTooLong => return Err(self.wipe(host_error(&call))),
        }
        self.check_status(&call, response)?;
        Ok(DerivedKey(Zeroizing::new(call.field(response, layout::RESPONSE_CONTENT))))
    }

    fn report_request(&self, data: &ReportData, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        put(&mut bytes, layout::REPORT_REQUEST_DATA, &data.0);
        put(&mut bytes, layout::REPORT_REQUEST_VMPL, &self.vmpl.to_ne_bytes());
        bytes
    }

    fn read_report(&self, call: &Call, response: BlockIndex) -> Result<Vec<u8>, AttesterError> {
        self.check_status(call, response)?;
        let got = u32::from_le_bytes(call.field(response, layout::RESPONSE_REPORT_SIZE));
        if got as usize != SNP_REPORT_LEN {
            return Err(AttesterError::ReportLength { path: self.path.clone(), got, wanted: SNP_REPORT_LEN });
        }
        let report: [u8; SNP_REPORT_LEN] = call.field(response, layout::RESPONSE_CONTENT);
        Ok(report.to_vec())
    }

    fn check_status(&self, call: &Call, response: BlockIndex) -> Result<(), AttesterError> {
        match u32::from_le_bytes(call.field(response, layout::RESPONSE_STATUS)) {
            0 => Ok(()),
            status => Err(AttesterError::FirmwareStatus { path: self.path.clone(), status }),
        }
    }

    fn wiped(&self) -> Option<WipedBy> {
        *self.wiped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the first reason: the later ones only tell that the key is gone.
    fn wipe(&self, by: WipedBy) -> AttesterError {
        let by = *self.wiped.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(by);
        AttesterError::KeyWiped { path: self.path.clone(), by }
    }

    fn perform(&self, call: &mut Call) -> Result<Answer, AttesterError> {
        if let Some(by) = self.wiped() {
            return Err(AttesterError::KeyWiped { path: self.path.clone(), by });
        }
        for () in attempts() {
            // The driver writes it only when there is something to say.
            put(call.block_mut(0), layout::REQUEST_FIRMWARE_ERROR, &[0; 8]);
            let error = match self.device.perform(call) {
                Ok(()) => return Ok(Answer::Done),
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EBUSY | libc::EINTR) => {}
                Some(libc::EIO) => match host_error(call) {
                    WipedBy::Host { code: layout::HOST_INVALID_LENGTH } => {
                        return Ok(Answer::CertificatesTooLong);
                    }
                    // A driver that wiped the key all the same answers ENOTTY next.
                    WipedBy::Host { code: layout::HOST_BUSY } => {}
                    by => return Err(self.wipe(by)),
                },
                Some(libc::ETIMEDOUT) => return Err(self.wipe(WipedBy::Throttled)),
                Some(libc::EBADMSG) => return Err(self.wipe(WipedBy::DamagedResponse)),
                Some(libc::ENOTTY) => return Err(self.wipe(WipedBy::Before)),
                Some(libc::ENXIO | libc::ENODEV) => {
                    return Err(AttesterError::NoProvider { path: self.path.clone() });
                }
                _ => return Err(io_error("ioctl", &self.path, &error)),
            }
        }
        Err(AttesterError::Busy { path: self.path.clone(), attempts: BUSY_ATTEMPTS })
    }
}

/// A call with its argument; the two addresses are attached by the caller.
fn request(number: u32) -> Call {
    let mut argument = vec![0; layout::REQUEST_LEN];
    argument[layout::REQUEST_VERSION] = MESSAGE_VERSION;
    Call::new(number, argument)
}

/// Who reported the error in the argument's `exitinfo2`. The host's half comes first: with it set, the firmware was not
/// asked or its answer does not matter.
fn host_error(call: &Call) -> WipedBy {
    let word = |offset| u32::from_ne_bytes(call.field(0, offset));
    match word(layout::REQUEST_HOST_ERROR) {
        0 => WipedBy::Firmware { code: word(layout::REQUEST_FIRMWARE_ERROR) },
        code => WipedBy::Host { code },
    }
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

fn io_error(operation: &'static str, path: &Path, error: &io::Error) -> AttesterError {
    AttesterError::Io { operation, path: path.to_owned(), kind: error.kind(), detail: error.to_string() }
}

impl Attester for SevGuest {
    fn platform(&self) -> Platform {
        Platform::SevSnp
    }

    fn key_origin(&self) -> KeyOrigin {
        KeyOrigin::BootEphemeral
    }

    fn evidence(&self, data: &ReportData) -> Result<Evidence, AttesterError> {
        let (report, endorsements) = self.extended_report(data)?;
        Ok(Evidence { platform: Platform::SevSnp, report, endorsements })
    }
}

#[cfg(test)]
mod tests;
