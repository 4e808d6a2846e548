//! A driver for a faked `/dev/uv`, and the Ultravisor behind it. NOT HARDWARE.
//!
//! It opens attestation requests with the protection key that it is told: a real one gets it from the key slots, with
//! the host's private key.

use std::sync::{Arc, Mutex, MutexGuard};

use ring::{aead, hmac};

use super::fake_devices::{Driver, Memory, bytes};

/// Linux `asm-generic/errno*.h`.
const EINVAL: i32 = 22;
/// Return codes.
const EXECUTED: u16 = 0x0001;
const MORE_DATA: u16 = 0x0100;
/// Attestation request that does not open.
const BAD_REQUEST: u16 = 0x010a;
/// No such secret.
const NO_SECRET: u16 = 0x0109;
/// Type of all secrets here.
const PLAIN_TEXT: u16 = 0x0003;
/// Entries of a list that one page holds.
const ENTRIES_PER_PAGE: usize = 85;

/// What the machine is like.
pub struct Machine {
    /// Opens attestation requests.
    pub protection_key: [u8; 32],
    /// Header of the guest's image.
    pub header: Vec<u8>,
    /// Hash of the host key that unpacked the image and opens requests.
    pub host_key_hash: [u8; 32],
    /// Configuration unique id.
    pub config_uid: [u8; 16],
    /// Calls that device and Ultravisor support.
    pub supported: u64,
}

struct State {
    machine: Machine,
    secrets: Vec<([u8; 32], Vec<u8>)>,
}

/// The faked device. Cheap to clone; the test keeps one handle.
#[derive(Clone)]
pub struct FakeUltravisor(Arc<Mutex<State>>);

/// Return code and reason.
type Answered = Result<(u16, u16), i32>;

impl FakeUltravisor {
    /// A guest on this machine.
    #[must_use]
    pub fn new(machine: Machine) -> Self {
        Self(Arc::new(Mutex::new(State { machine, secrets: Vec::new() })))
    }

    /// The guest's owner gives it this secret, with its length in front and filled up as the Ultravisor keeps it.
    pub fn keep(&self, id: [u8; 32], secret: Vec<u8>) {
        self.state().secrets.push((id, secret));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic under the lock")
    }
}

impl State {
    /// Measurement key and nonce of an attestation request.
    fn open(&self, request: &[u8]) -> Option<Vec<u8>> {
        let slots = usize::from(*request.get(0x27)?);
        let encrypted = 0xe0 + slots * 80;
        let (clear, sealed) = request.split_at_checked(encrypted)?;
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, &self.machine.protection_key).expect("32 bytes");
        let nonce = aead::Nonce::assume_unique_for_key(bytes(request, 0x10));
        let mut sealed = sealed.to_vec();
        let opened = aead::LessSafeKey::new(key).open_in_place(nonce, aead::Aad::from(clear), &mut sealed);
        opened.ok().filter(|opened| opened.len() >= 64).map(|opened| opened.to_vec())
    }

    fn attest(&self, at: u64, memory: &Memory) -> Answered {
        let argument = memory.read(at, 0x138)?;
        let address = |offset| u64::from_ne_bytes(bytes(&argument, offset));
        let length = |offset| u32::from_ne_bytes(bytes(&argument, offset)) as usize;
        let user_data_len = usize::from(u16::from_ne_bytes(bytes(&argument, 0x134)));
        let (measurement, additional) = (length(0x12c), length(0x130));
        let limits = (1..=0x10_0000).contains(&length(0x128))
            && (1..=0x8000).contains(&measurement)
            && additional <= 0x8000
            && argument[0x136..] == [0, 0];
        if !limits {
            return Err(EINVAL);
        }
        let request = memory.read(address(0), length(0x128))?;
        let Some(opened) = self.open(&request) else { return Ok((BAD_REQUEST, 0)) };
        let data = [self.machine.host_key_hash; 2].concat();
        if measurement != 64 || additional != data.len() || user_data_len > 256 {
            return Ok((BAD_REQUEST, 1));
        }
        let header = &self.machine.header;
        let measured = [
            &header[0xe0..0x1a0],
            &header[header.len() - 16..],
            &self.machine.config_uid,
            &u16::try_from(user_data_len).expect("checked").to_be_bytes(),
            &[0; 2],
            &u32::try_from(data.len()).expect("small").to_be_bytes(),
            &argument[0x18..0x18 + user_data_len],
            &opened[64..],
            &data,
        ];
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA512, &opened[..64]), &measured.concat());
        memory.write(address(8), tag.as_ref())?;
        memory.write(address(0x10), &data)?;
        memory.write(at + 0x118, &self.machine.config_uid)?;
        Ok((EXECUTED, 0))
    }

    fn list(&self, at: u64, length: usize, memory: &Memory) -> Answered {
        if length == 0 || !length.is_multiple_of(4096) {
            return Err(EINVAL);
        }
        let most = length / 4096 * ENTRIES_PER_PAGE;
        let count = |secrets: usize| u16::try_from(secrets).expect("few").to_ne_bytes();
        let stored = self.secrets.len().min(most);
        let mut list = [&count(stored)[..], &count(self.secrets.len()), &[0; 12]].concat();
        for (index, (id, secret)) in self.secrets.iter().take(stored).enumerate() {
            list.extend_from_slice(&count(index));
            list.extend_from_slice(&PLAIN_TEXT.to_ne_bytes());
            list.extend_from_slice(&u32::try_from(secret.len()).expect("small").to_ne_bytes());
            list.extend_from_slice(&[0; 8]);
            list.extend_from_slice(id);
        }
        memory.write(at, &list)?;
        Ok((if stored < self.secrets.len() { MORE_DATA } else { EXECUTED }, 0))
    }

    fn call(&self, number: u32, argument: &[u8], memory: &Memory) -> Answered {
        let (at, length) =
            (u64::from_ne_bytes(bytes(argument, 8)), u32::from_ne_bytes(bytes(argument, 0x10)) as usize);
        if argument[..4] != [0; 4] || argument[0x14..] != [0; 0x2c] {
            return Err(EINVAL);
        }
        match number {
            0xc040_7500 if length >= 16 => {
                memory.write(at, &[self.machine.supported.to_ne_bytes(); 2].concat())?;
                Ok((EXECUTED, 0))
            }
            0xc040_7501 if length == 0x138 => self.attest(at, memory),
            0xc040_7503 => self.list(at, length, memory),
            0xc040_7505 if (2..=0x2000).contains(&length) => {
                let index = usize::from(u16::from_ne_bytes(bytes(&memory.read(at, 2)?, 0)));
                let Some((_, secret)) = self.secrets.get(index).filter(|(_, secret)| secret.len() <= length)
                else {
                    return Ok((NO_SECRET, 0));
                };
                memory.write(at, secret)?;
                Ok((EXECUTED, 0))
            }
            _ => Err(EINVAL),
        }
    }
}

impl Driver for FakeUltravisor {
    fn ioctl(&mut self, number: u32, argument: &mut [u8], memory: &Memory) -> Result<(), i32> {
        let (code, reason) = self.state().call(number, argument, memory)?;
        argument[4..6].copy_from_slice(&code.to_ne_bytes());
        argument[6..8].copy_from_slice(&reason.to_ne_bytes());
        Ok(())
    }
}
