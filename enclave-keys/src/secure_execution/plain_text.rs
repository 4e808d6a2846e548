//! Retrievable secrets of plain text, as `pvsecret create retrievable --type plain` of s390-tools puts them into the store:
//! the Ultravisor keeps whole blocks of 16 bytes, so the secret comes with its length and with zeros behind it.
//!
//! `tests/peers` includes this file by its path and compares it with the crate under `pvsecret`.

/// Length of a block in bytes.
const BLOCK: usize = 16;

/// The secret (0 to 8190 bytes) in what was retrieved: u16 length, big-endian, the secret, and zeros up to a whole number
/// of blocks of 16 bytes. `None` when it has another form.
pub(super) fn secret(retrieved: &[u8]) -> Option<&[u8]> {
    let (length, rest) = retrieved.split_first_chunk()?;
    let (secret, padding) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let is_whole = retrieved.len().is_multiple_of(BLOCK) && padding.len() < BLOCK;
    (is_whole && padding.iter().all(|byte| *byte == 0)).then_some(secret)
}

#[cfg(test)]
mod tests {
    use super::secret;

    #[test]
    fn length_and_zeros_are_no_part_of_the_secret() {
        for (length, whole) in [(0_usize, 16), (1, 16), (13, 16), (14, 16), (15, 32), (48, 64), (8190, 8192)]
        {
            let own = vec![7; length];
            let mut framed = u16::try_from(length).expect("short").to_be_bytes().to_vec();
            framed.extend(&own);
            framed.resize(whole, 0);
            assert_eq!(secret(&framed), Some(own.as_slice()), "{length}");
        }
    }

    #[test]
    fn every_other_form_is_none() {
        let mut good = vec![0, 10];
        good.extend([7; 10]);
        good.extend([0; 4]);
        assert_eq!(secret(&good), Some(&[7; 10][..]));
        let altered = |alter: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            alter(&mut bytes);
            bytes
        };
        for (why, other) in [
            ("nothing", vec![]),
            ("half a length", vec![0]),
            ("longer than what is there", altered(&|bytes| bytes[1] = 15)),
            ("no zeros behind it", altered(&|bytes| bytes[15] = 1)),
            ("shorter, so that a byte of it stands behind it", altered(&|bytes| bytes[1] = 9)),
            ("no whole block", altered(&|bytes| bytes.truncate(15))),
            ("a block of zeros too many", altered(&|bytes| bytes.resize(32, 0))),
            ("nothing but a block of zeros behind it", [&[0, 14][..], &[7; 14], &[0; 16]].concat()),
            ("no length at all", vec![0x20; 32]),
        ] {
            assert_eq!(secret(&other), None, "{why}");
        }
    }
}
