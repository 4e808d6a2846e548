//! A driver for a faked `/dev/sev-guest`, and the firmware behind it. NOT HARDWARE.

use std::sync::{Arc, Mutex, MutexGuard};

use provenance::binding::ReportData;
use ring::hmac;

use super::fake_devices::{Driver, Memory, bytes};
use super::{Chip, ReportFields};

/// Linux `asm-generic/errno*.h`.
mod errno {
    pub(super) const EIO: i32 = 5;
    pub(super) const EINVAL: i32 = 22;
    pub(super) const ENOTTY: i32 = 25;
}

/// A page; the driver takes certificate buffers of whole pages.
const PAGE: usize = 4096;
/// Longest certificate buffer that the driver takes.
const LONGEST_CERTIFICATES: usize = 4 * PAGE;

/// What the device does wrong. All zero: it behaves.
#[derive(Debug, Clone, Default)]
pub struct DeviceTrouble {
    /// Calls that the host answers as throttled before one succeeds.
    pub busy: u32,
    /// The next call fails in the firmware with this code, which wipes the key to it.
    pub firmware_error: Option<u32>,
    /// Status of each response, in place of 0.
    pub status: u32,
    /// Report size that responses state, in place of 1184.
    pub report_size: Option<u32>,
    /// Bytes of padding before the first certificate, so that the table needs more pages.
    pub certificate_padding: usize,
}

struct State {
    chip: Chip,
    vmpl: u32,
    alter: Box<dyn Fn(&mut ReportFields) + Send>,
    trouble: DeviceTrouble,
    calls: u64,
    wiped: bool,
}

/// The faked device. Cheap to clone; the test keeps one handle.
#[derive(Clone)]
pub struct FakeSevGuest(Arc<Mutex<State>>);

impl FakeSevGuest {
    /// A guest on this chip, at this privilege level; `alter` changes what its reports say.
    #[must_use]
    pub fn new(chip: Chip, vmpl: u32, alter: impl Fn(&mut ReportFields) + Send + 'static) -> Self {
        let trouble = DeviceTrouble::default();
        let state = State { chip, vmpl, alter: Box::new(alter), trouble, calls: 0, wiped: false };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic under the lock")
    }

    /// From now on.
    pub fn trouble(&self, trouble: DeviceTrouble) {
        self.state().trouble = trouble;
    }

    /// Another boot of the same guest: the key to the firmware is there again. From now on `alter` changes its reports.
    pub fn boot(&self, alter: impl Fn(&mut ReportFields) + Send + 'static) {
        let mut state = self.state();
        (state.alter, state.wiped) = (Box::new(alter), false);
    }

    /// Calls so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state().calls
    }
}

/// A refusal: errno, and exitinfo2.
type Refused = (i32, u64);

impl State {
    fn fields(&self, data: [u8; 64], vmpl: u32) -> ReportFields {
        let mut fields = self.chip.fields(&ReportData(data));
        (self.alter)(&mut fields);
        fields.vmpl = vmpl;
        fields
    }

    /// A message that the firmware does not like wipes the key.
    fn firmware(&mut self, fine: bool) -> Result<(), Refused> {
        let error = self.trouble.firmware_error.take().or((!fine).then_some(0x16));
        match error {
            Some(code) => {
                self.wiped = true;
                Err((errno::EIO, u64::from(code)))
            }
            None => Ok(()),
        }
    }

    fn report(&mut self, request: &[u8]) -> Result<Vec<u8>, Refused> {
        let vmpl = u32::from_ne_bytes(bytes(request, 64));
        let fine = vmpl >= self.vmpl && vmpl <= 3 && request[68..96] == [0; 28];
        self.firmware(fine)?;
        let report = self.chip.sign(&self.fields(bytes(request, 0), vmpl).encode());
        let mut response = vec![0; 4000];
        response[..4].copy_from_slice(&self.trouble.status.to_le_bytes());
        response[4..8].copy_from_slice(&self.trouble.report_size.unwrap_or(1184).to_le_bytes());
        response[32..32 + report.len()].copy_from_slice(&report);
        Ok(response)
    }

    /// The table that the host sends.
    fn certificates(&self) -> Vec<u8> {
        let table = self.chip.endorsements();
        let padding = self.trouble.certificate_padding;
        let entries = table.chunks(24).take_while(|entry| entry.iter().any(|byte| *byte != 0)).count() + 1;
        let mut padded = table[..entries * 24].to_vec();
        for entry in padded.chunks_mut(24).take(entries - 1) {
            let offset = u32::from_le_bytes(bytes(entry, 16)) + u32::try_from(padding).expect("small");
            entry[16..20].copy_from_slice(&offset.to_le_bytes());
        }
        [&padded, &vec![0; padding], &table[entries * 24..]].concat()
    }

    /// The same for the same chip and selected fields, another one when any of them is another.
    fn derived_key(&mut self, request: &[u8]) -> Result<Vec<u8>, Refused> {
        let fields = self.fields([0; 64], self.vmpl);
        let root = u32::from_ne_bytes(bytes(request, 0));
        let select = u64::from_ne_bytes(bytes(request, 8));
        let vmpl = u32::from_ne_bytes(bytes(request, 16));
        let svn = u32::from_ne_bytes(bytes(request, 20));
        let tcb: [u8; 8] = bytes(request, 24);
        let committed = tcb.iter().zip(fields.committed_tcb).all(|(asked, most)| *asked <= most);
        let fine = root == 0 && select < 64 && vmpl >= self.vmpl && svn <= fields.guest_svn && committed;
        self.firmware(fine)?;
        let mut mixed =
            [&select.to_le_bytes()[..], &vmpl.to_le_bytes(), self.chip.certificate.as_slice()].concat();
        let parts: [(u64, &[u8]); 6] = [
            (1, &fields.policy.to_le_bytes()),
            (2, &fields.image_id),
            (4, &fields.family_id),
            (8, &fields.measurement),
            (16, &svn.to_le_bytes()),
            (32, &tcb),
        ];
        for (_, part) in parts.iter().filter(|(bit, _)| select & bit != 0) {
            mixed.extend_from_slice(part);
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"NOT HARDWARE derived key");
        let mut response = vec![0; 64];
        response[..4].copy_from_slice(&self.trouble.status.to_le_bytes());
        response[32..].copy_from_slice(hmac::sign(&key, &mixed).as_ref());
        Ok(response)
    }

    fn call(&mut self, number: u32, argument: &[u8], memory: &Memory) -> Result<(), Refused> {
        // Nothing was asked of the firmware.
        let early = |errno| (errno, 0xff);
        // Driver and firmware know version 1 of the messages.
        if argument[0] != 1 {
            return Err(early(errno::EINVAL));
        }
        if self.wiped {
            return Err(early(errno::ENOTTY));
        }
        if self.trouble.busy > 0 {
            self.trouble.busy -= 1;
            return Err((errno::EIO, 2 << 32));
        }
        let (data, response) =
            (u64::from_ne_bytes(bytes(argument, 8)), u64::from_ne_bytes(bytes(argument, 16)));
        match number {
            0xc020_5300 => {
                let answer = self.report(&memory.read(data, 96).map_err(early)?)?;
                memory.write(response, &answer).map_err(early)
            }
            0xc020_5301 => {
                let answer = self.derived_key(&memory.read(data, 32).map_err(early)?)?;
                memory.write(response, &answer).map_err(early)
            }
            0xc020_5302 => {
                let request = memory.read(data, 112).map_err(early)?;
                let (address, length) = (
                    u64::from_ne_bytes(bytes(&request, 96)),
                    u32::from_ne_bytes(bytes(&request, 104)) as usize,
                );
                if length > LONGEST_CERTIFICATES || !length.is_multiple_of(PAGE) {
                    return Err(early(errno::EINVAL));
                }
                let answer = self.report(&request[..96])?;
                let mut table = self.certificates();
                if table.len() > length {
                    let pages = u32::try_from(table.len().next_multiple_of(PAGE)).expect("small");
                    memory.write(data + 104, &pages.to_ne_bytes()).map_err(early)?;
                    return Err((errno::EIO, 1 << 32));
                }
                table.resize(length, 0);
                memory.write(address, &table).map_err(early)?;
                memory.write(response, &answer).map_err(early)
            }
            _ => Err(early(errno::ENOTTY)),
        }
    }
}

impl Driver for FakeSevGuest {
    fn ioctl(&mut self, number: u32, argument: &mut [u8], memory: &Memory) -> Result<(), i32> {
        let mut state = self.state();
        state.calls += 1;
        state.call(number, argument, memory).map_err(|(errno, exitinfo2)| {
            argument[24..32].copy_from_slice(&exitinfo2.to_ne_bytes());
            errno
        })
    }
}
