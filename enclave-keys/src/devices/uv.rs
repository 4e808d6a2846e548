//! `/dev/uv` (Linux `arch/s390/include/uapi/asm/uvdevice.h`): what a Secure Execution guest may ask of the Ultravisor.
//!
//! All numbers are in the machine's order, which is big-endian on s390. The driver hands the Ultravisor's return codes
//! through; an ioctl that succeeds may so still be refused ([`AttesterError::Ultravisor`]).

use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{BUSY_ATTEMPTS, BlockIndex, Call, IoctlCall, KernelDevice, attempts, read_write_number};
use crate::attester::AttesterError;

/// Byte layouts, numbers and limits of the kernel's header. A test compares them with the header itself.
pub mod layout {
    use super::read_write_number;

    /// Length of `struct uvio_ioctl_cb`, the argument of every call.
    pub const CONTROL_LEN: usize = 0x40;
    /// `uv_rc`, u16.
    pub const CONTROL_CODE: usize = 0x04;
    /// `uv_rrc`, u16.
    pub const CONTROL_REASON: usize = 0x06;
    /// `argument_addr`, address.
    pub const CONTROL_ARGUMENT: usize = 0x08;
    /// `argument_len`, u32.
    pub const CONTROL_ARGUMENT_LEN: usize = 0x10;

    /// Length of `struct uvio_attest`.
    pub const ATTEST_LEN: usize = 0x138;
    /// `arcb_addr`, address of the attestation request.
    pub const ATTEST_REQUEST: usize = 0x00;
    /// `meas_addr`, address.
    pub const ATTEST_MEASUREMENT: usize = 0x08;
    /// `add_data_addr`, address.
    pub const ATTEST_ADDITIONAL: usize = 0x10;
    /// `user_data`, [`USER_DATA_MAX`] bytes.
    pub const ATTEST_USER_DATA: usize = 0x18;
    /// `config_uid`, [`CONFIG_UID_LEN`] bytes.
    pub const ATTEST_CONFIG_UID: usize = 0x118;
    /// `arcb_len`, u32.
    pub const ATTEST_REQUEST_LEN: usize = 0x128;
    /// `meas_len`, u32.
    pub const ATTEST_MEASUREMENT_LEN: usize = 0x12c;
    /// `add_data_len`, u32.
    pub const ATTEST_ADDITIONAL_LEN: usize = 0x130;
    /// `user_data_len`, u16.
    pub const ATTEST_USER_DATA_LEN: usize = 0x134;

    /// Length of `struct uvio_uvdev_info`.
    pub const INFO_LEN: usize = 16;
    /// `supp_uvio_cmds`, u64.
    pub const INFO_DEVICE: usize = 0;
    /// `supp_uv_cmds`, u64.
    pub const INFO_ULTRAVISOR: usize = 8;

    /// Longest user data in bytes.
    pub const USER_DATA_MAX: usize = 0x100;
    /// Length of a configuration unique id in bytes.
    pub const CONFIG_UID_LEN: usize = 0x10;
    /// Longest attestation request in bytes.
    pub const REQUEST_MAX: usize = 0x10_0000;
    /// Longest measurement in bytes.
    pub const MEASUREMENT_MAX: usize = 0x8000;
    /// Longest additional data in bytes.
    pub const ADDITIONAL_MAX: usize = 0x8000;
    /// Longest request to add a secret in bytes.
    pub const ADD_SECRET_MAX: usize = 0x10_0000;
    /// A list of secrets comes in pages of so many bytes.
    pub const LIST_PAGE: usize = 0x1000;
    /// Longest secret that is retrieved, in bytes.
    pub const RETRIEVE_MAX: usize = 0x2000;

    /// Header of a list of secrets: number in this list u16, in the store u16, next index u16, 10 reserved bytes
    /// (Linux `arch/s390/include/asm/uv.h`, not part of the user interface's header).
    pub const LIST_HEADER_LEN: usize = 16;
    /// Entry: index u16, type u16, length u32, 8 reserved bytes, id (32 bytes).
    pub const LIST_ENTRY_LEN: usize = 48;
    /// Length of a secret's id.
    pub const SECRET_ID_LEN: usize = 32;

    const fn number(nr: u8) -> u32 {
        read_write_number(b'u', nr, CONTROL_LEN)
    }
    /// `UVIO_IOCTL_UVDEV_INFO`.
    pub const INFO: u32 = number(0);
    /// `UVIO_IOCTL_ATT`.
    pub const ATTEST: u32 = number(1);
    /// `UVIO_IOCTL_ADD_SECRET`.
    pub const ADD_SECRET: u32 = number(2);
    /// `UVIO_IOCTL_LIST_SECRETS`.
    pub const LIST_SECRETS: u32 = number(3);
    /// `UVIO_IOCTL_LOCK_SECRETS`.
    pub const LOCK_SECRETS: u32 = number(4);
    /// `UVIO_IOCTL_RETR_SECRET`.
    pub const RETRIEVE_SECRET: u32 = number(5);
}

/// Return code of a call that was carried out.
const EXECUTED: u16 = 0x0001;
/// Return code of a list that goes on.
const MORE_DATA: u16 = 0x0100;
/// Pages of the list of secrets that are read at most, where one does not hold it.
const LIST_PAGES: usize = 8;

/// Which calls work here; bit n stands for ioctl n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Supported {
    /// What the kernel's device offers.
    pub device: u64,
    /// What the Ultravisor offers to this guest.
    pub ultravisor: u64,
}

/// The Ultravisor's answer to an attestation request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// As long as was asked for.
    pub measurement: Vec<u8>,
    /// As long as was asked for.
    pub additional_data: Vec<u8>,
    /// Configuration unique id of this guest.
    pub config_uid: [u8; layout::CONFIG_UID_LEN],
}

/// An entry of the secret store. It names a secret and does not hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretEntry {
    /// Its place in the store, by which it is retrieved.
    pub index: u16,
    /// What kind of secret it is.
    pub kind: u16,
    /// Its length in bytes.
    pub length: u32,
    /// The id that its owner gave it.
    pub id: [u8; layout::SECRET_ID_LEN],
}

/// The Ultravisor device.
pub struct Ultravisor {
    /// For messages.
    path: PathBuf,
    device: Box<dyn IoctlCall>,
}

impl Ultravisor {
    /// Opens the kernel's device. Only this crate may: secrets of the store come back from it.
    pub(crate) fn open(path: &Path) -> Result<Self, AttesterError> {
        match KernelDevice::open(path) {
            Ok(device) => Ok(Self::new(path, Box::new(device))),
            Err(error) => Err(io_error("open", path, &error)),
        }
    }

    /// A device behind `device`, called `path` in messages.
    #[must_use]
    pub fn new(path: &Path, device: Box<dyn IoctlCall>) -> Self {
        Self { path: path.to_owned(), device }
    }

    /// The device, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which calls work here.
    pub fn info(&self) -> Result<Supported, AttesterError> {
        let (mut call, argument) = control(layout::INFO, vec![0; layout::INFO_LEN]);
        self.perform("info", &mut call)?;
        Ok(Supported {
            device: u64::from_ne_bytes(call.field(argument, layout::INFO_DEVICE)),
            ultravisor: u64::from_ne_bytes(call.field(argument, layout::INFO_ULTRAVISOR)),
        })
    }

    /// Answers an attestation request (ARCB, 1 byte to 1 MiB) over user data (0 to 256 bytes). Measurement (1 byte to
    /// 32 KiB) and additional data (0 to 32 KiB) must be as long as the request makes them, else the Ultravisor refuses.
    pub fn attest(
        &self,
        request: &[u8],
        user_data: &[u8],
        measurement_len: usize,
        additional_len: usize,
    ) -> Result<Attested, AttesterError> {
        self.within("attestation request", request.len(), 1, layout::REQUEST_MAX)?;
        self.within("user data", user_data.len(), 0, layout::USER_DATA_MAX)?;
        self.within("measurement", measurement_len, 1, layout::MEASUREMENT_MAX)?;
        self.within("additional data", additional_len, 0, layout::ADDITIONAL_MAX)?;
        let mut bytes = vec![0; layout::ATTEST_LEN];
        put(&mut bytes, layout::ATTEST_USER_DATA, user_data);
        put(&mut bytes, layout::ATTEST_REQUEST_LEN, &length(request.len()));
        put(&mut bytes, layout::ATTEST_MEASUREMENT_LEN, &length(measurement_len));
        put(&mut bytes, layout::ATTEST_ADDITIONAL_LEN, &length(additional_len));
        let user_data_len = u16::try_from(user_data.len()).expect("at most USER_DATA_MAX");
        put(&mut bytes, layout::ATTEST_USER_DATA_LEN, &user_data_len.to_ne_bytes());
        let (mut call, argument) = control(layout::ATTEST, bytes);
        call.attach(argument, layout::ATTEST_REQUEST, request.to_vec());
        let measurement = call.attach(argument, layout::ATTEST_MEASUREMENT, vec![0; measurement_len]);
        let additional = (additional_len > 0)
            .then(|| call.attach(argument, layout::ATTEST_ADDITIONAL, vec![0; additional_len]));
        self.perform("attest", &mut call)?;
        let given = u32::from_ne_bytes(call.field(argument, layout::ATTEST_ADDITIONAL_LEN)) as usize;
        self.within("additional data of the answer", given, 0, additional_len)?;
        Ok(Attested {
            measurement: call.block(measurement).to_vec(),
            additional_data: additional.map_or_else(Vec::new, |block| call.block(block)[..given].to_vec()),
            config_uid: call.field(argument, layout::ATTEST_CONFIG_UID),
        })
    }

    /// Adds a secret by the owner's request (1 byte to 1 MiB).
    pub fn add_secret(&self, request: &[u8]) -> Result<(), AttesterError> {
        self.within("request to add a secret", request.len(), 1, layout::ADD_SECRET_MAX)?;
        let (mut call, _) = control(layout::ADD_SECRET, request.to_vec());
        self.perform("add secret", &mut call).map(|_| ())
    }

    /// What is in the secret store.
    pub fn list_secrets(&self) -> Result<Vec<SecretEntry>, AttesterError> {
        // Kernels before 6.13 take one page and nothing else.
        match self.list(1) {
            Err(AttesterError::SecretList { .. }) => self.list(LIST_PAGES),
            listed => listed,
        }
    }

    fn list(&self, pages: usize) -> Result<Vec<SecretEntry>, AttesterError> {
        let (mut call, argument) = control(layout::LIST_SECRETS, vec![0; pages * layout::LIST_PAGE]);
        let more = self.perform("list secrets", &mut call)? == MORE_DATA;
        let stored = usize::from(u16::from_ne_bytes(call.field(argument, 0)));
        let total = usize::from(u16::from_ne_bytes(call.field(argument, 2)));
        let most = (call.block(argument).len() - layout::LIST_HEADER_LEN) / layout::LIST_ENTRY_LEN;
        // A list that is cut short must not pass for the whole.
        if more || stored != total || stored > most {
            return Err(AttesterError::SecretList { path: self.path.clone(), stored, total, most });
        }
        let entry = |at: usize| {
            let offset = layout::LIST_HEADER_LEN + at * layout::LIST_ENTRY_LEN;
            SecretEntry {
                index: u16::from_ne_bytes(call.field(argument, offset)),
                kind: u16::from_ne_bytes(call.field(argument, offset + 2)),
                length: u32::from_ne_bytes(call.field(argument, offset + 4)),
                id: call.field(argument, offset + 16),
            }
        };
        Ok((0..stored).map(entry).collect())
    }

    /// Locks the secret store until the next boot: nothing can be added to it afterwards.
    pub fn lock_secrets(&self) -> Result<(), AttesterError> {
        // The driver wants neither address nor length here.
        let mut call = Call::new(layout::LOCK_SECRETS, vec![0; layout::CONTROL_LEN]);
        self.perform("lock secrets", &mut call).map(|_| ())
    }

    /// Retrieves a secret, as long as its entry says (2 bytes to 8 KiB).
    pub fn retrieve_secret(&self, entry: &SecretEntry) -> Result<Zeroizing<Vec<u8>>, AttesterError> {
        let length = usize::try_from(entry.length).unwrap_or(usize::MAX);
        // The index goes in by the first two bytes of the answer's buffer.
        self.within("secret", length, 2, layout::RETRIEVE_MAX)?;
        let mut bytes = vec![0; length];
        put(&mut bytes, 0, &entry.index.to_ne_bytes());
        let (mut call, argument) = control(layout::RETRIEVE_SECRET, bytes);
        self.perform("retrieve secret", &mut call)?;
        Ok(Zeroizing::new(call.block(argument).to_vec()))
    }

    fn within(&self, what: &'static str, got: usize, least: usize, most: usize) -> Result<(), AttesterError> {
        if (least..=most).contains(&got) {
            return Ok(());
        }
        Err(AttesterError::Length { path: self.path.clone(), what, got, least, most })
    }

    /// The Ultravisor's return code, one of those that mean success.
    fn perform(&self, name: &'static str, call: &mut Call) -> Result<u16, AttesterError> {
        for () in attempts() {
            match self.device.perform(call) {
                Ok(()) => {
                    let code = u16::from_ne_bytes(call.field(0, layout::CONTROL_CODE));
                    if code == EXECUTED || (code == MORE_DATA && call.number() == layout::LIST_SECRETS) {
                        return Ok(code);
                    }
                    let reason = u16::from_ne_bytes(call.field(0, layout::CONTROL_REASON));
                    return Err(AttesterError::Ultravisor {
                        path: self.path.clone(),
                        call: name,
                        code,
                        reason,
                    });
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EBUSY | libc::EINTR) => {}
                    Some(libc::ENXIO | libc::ENODEV) => {
                        return Err(AttesterError::NoProvider { path: self.path.clone() });
                    }
                    _ => return Err(io_error(name, &self.path, &error)),
                },
            }
        }
        Err(AttesterError::Busy { path: self.path.clone(), attempts: BUSY_ATTEMPTS })
    }
}

/// A call whose control block points to `argument`, and the argument's block.
fn control(number: u32, argument: Vec<u8>) -> (Call, BlockIndex) {
    let mut bytes = vec![0; layout::CONTROL_LEN];
    put(&mut bytes, layout::CONTROL_ARGUMENT_LEN, &length(argument.len()));
    let mut call = Call::new(number, bytes);
    let block = call.attach(0, layout::CONTROL_ARGUMENT, argument);
    (call, block)
}

fn length(value: usize) -> [u8; 4] {
    u32::try_from(value).expect("at most 1 MiB").to_ne_bytes()
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

fn io_error(operation: &'static str, path: &Path, error: &io::Error) -> AttesterError {
    AttesterError::Io { operation, path: path.to_owned(), kind: error.kind(), detail: error.to_string() }
}

#[cfg(test)]
mod tests;
