//! The event log (CCEL) of the software TD's boot, in the form of the TCG PC Client Platform Firmware Profile §10.2,
//! and the registers that it gives. NOT HARDWARE: no firmware measured any of it.

use ring::digest::{SHA384, digest};

/// EV_NO_ACTION and EV_EVENT_TAG (TCG profile §10.4.1).
const EV_NO_ACTION: u32 = 3;
const EV_EVENT_TAG: u32 = 6;
/// TPM_ALG_SHA384.
const ALGORITHM: u16 = 0x000c;

/// What was "measured": RTMR, and the bytes that its digest is of.
const EVENTS: [(u32, &[u8]); 5] = [
    (0, b"NOT HARDWARE: firmware configuration"),
    (0, b"NOT HARDWARE: secure boot variables"),
    (1, b"NOT HARDWARE: kernel"),
    (2, b"NOT HARDWARE: kernel command line"),
    (2, b"NOT HARDWARE: initial RAM disk"),
];

fn sha384(bytes: &[u8]) -> [u8; 48] {
    digest(&SHA384, bytes).as_ref().try_into().expect("SHA-384 has 48 bytes")
}

/// RTMR0 to RTMR3 after the boot; nothing extends RTMR3.
#[must_use]
pub fn registers() -> [[u8; 48]; 4] {
    let mut registers = [[0; 48]; 4];
    for (index, data) in EVENTS {
        let register = &mut registers[index as usize];
        *register = sha384(&[register.as_slice(), &sha384(data)].concat());
    }
    registers
}

/// The log.
#[must_use]
pub fn log() -> Vec<u8> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short").to_le_bytes();
    // The first event has the older form, with a SHA-1 digest, and says which algorithms follow.
    let mut spec_id = b"Spec ID Event03\0".to_vec();
    spec_id.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    spec_id.extend(1_u32.to_le_bytes());
    spec_id.extend(ALGORITHM.to_le_bytes());
    spec_id.extend(48_u16.to_le_bytes());
    spec_id.push(0);
    let mut log = 1_u32.to_le_bytes().to_vec();
    log.extend(EV_NO_ACTION.to_le_bytes());
    log.extend([0; 20]);
    log.extend(length(&spec_id));
    log.extend(spec_id);
    for (rtmr, data) in EVENTS {
        // Index 0 is MRTD (UEFI specification §38.4.1).
        log.extend((rtmr + 1).to_le_bytes());
        log.extend(EV_EVENT_TAG.to_le_bytes());
        log.extend(1_u32.to_le_bytes());
        log.extend(ALGORITHM.to_le_bytes());
        log.extend(sha384(data));
        log.extend(length(data));
        log.extend(data);
    }
    // The ACPI table's area is longer than what is logged.
    log.extend([0xff; 64]);
    log
}
