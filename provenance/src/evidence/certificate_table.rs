//! The GHCB certificate table (AMD GHCB specification §4.1.8.1): which certificate is which.

use std::collections::BTreeMap;

/// GUID of the ARK certificate, in the byte order of the table.
pub const ARK: [u8; 16] = guid(0xc0b4_06a4, 0xa803, 0x4952, [0x97, 0x43, 0x3f, 0xb6, 0x01, 0x4c, 0xd0, 0xae]);
/// GUID of the ASK certificate.
pub const ASK: [u8; 16] = guid(0x4ab7_b379, 0xbbac, 0x4fe4, [0xa0, 0x2f, 0x05, 0xae, 0xf3, 0x27, 0xc7, 0x82]);
/// GUID of the VCEK certificate.
pub const VCEK: [u8; 16] =
    guid(0x63da_758d, 0xe664, 0x4564, [0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd]);
/// GUID of the VLEK certificate.
pub const VLEK: [u8; 16] =
    guid(0xa807_4bc2, 0xa25a, 0x483e, [0xaa, 0xe6, 0x39, 0xc0, 0x45, 0xa0, 0xb8, 0xa1]);
/// GUID of the VCEK/VLEK intermediate ASVK is the ASK entry; CRLs have this GUID.
pub const CRL: [u8; 16] = guid(0x92f8_1bc3, 0x5811, 0x4d3d, [0x97, 0xff, 0xd1, 0x9f, 0x88, 0xdc, 0x67, 0xea]);

/// Most entries that are read.
pub const MAX_ENTRIES: usize = 16;
const ENTRY_LEN: usize = 24;

/// A GUID's first three fields are little-endian in the table (RFC 4122 mixed form, as UEFI stores them).
const fn guid(a: u32, b: u16, c: u16, rest: [u8; 8]) -> [u8; 16] {
    let (a, b, c, d) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes(), rest);
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

/// Why a table is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTable {
    /// No all-zero entry ends the table within its bytes and [`MAX_ENTRIES`].
    #[error("certificate table of {got} bytes has no end entry among its first {MAX_ENTRIES} entries")]
    NoEnd {
        /// Length of the table.
        got: usize,
    },
    /// An entry points outside the table.
    #[error("certificate table entry {index} points to {offset}+{length}, outside its {got} bytes")]
    OutOfBounds {
        /// Index of the entry.
        index: usize,
        /// Offset seen.
        offset: usize,
        /// Length seen.
        length: usize,
        /// Length of the table.
        got: usize,
    },
    /// The same GUID stands twice.
    #[error("certificate table names the same certificate twice (entry {index})")]
    Duplicate {
        /// Index of the second entry.
        index: usize,
    },
}

/// Entries: GUID(16) ‖ offset u32le ‖ length u32le, ended by an all-zero entry; then the certificates.
#[must_use]
pub fn encode(entries: &[([u8; 16], &[u8])]) -> Vec<u8> {
    let mut header = Vec::new();
    let mut body = Vec::new();
    let start = (entries.len() + 1) * ENTRY_LEN;
    for (guid, certificate) in entries {
        let offset = u32::try_from(start + body.len()).expect("certificates are small");
        let length = u32::try_from(certificate.len()).expect("certificates are small");
        header.extend_from_slice(guid);
        header.extend_from_slice(&offset.to_le_bytes());
        header.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(certificate);
    }
    header.extend_from_slice(&[0; ENTRY_LEN]);
    [header, body].concat()
}

struct Entry {
    guid: [u8; 16],
    offset: usize,
    length: usize,
}

/// The entries, all of which lie within the table.
fn entries(table: &[u8]) -> Result<Vec<Entry>, InvalidTable> {
    let mut found: Vec<Entry> = Vec::new();
    if table.is_empty() {
        return Ok(found);
    }
    for (index, entry) in table.chunks_exact(ENTRY_LEN).take(MAX_ENTRIES).enumerate() {
        if entry.iter().all(|byte| *byte == 0) {
            return Ok(found);
        }
        let word = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&entry[at..at + 4]);
            u32::from_le_bytes(bytes) as usize
        };
        let (offset, length) = (word(16), word(20));
        if table.get(offset..offset.saturating_add(length)).is_none() {
            return Err(InvalidTable::OutOfBounds { index, offset, length, got: table.len() });
        }
        let mut guid = [0; 16];
        guid.copy_from_slice(&entry[..16]);
        if found.iter().any(|other| other.guid == guid) {
            return Err(InvalidTable::Duplicate { index });
        }
        found.push(Entry { guid, offset, length });
    }
    Err(InvalidTable::NoEnd { got: table.len() })
}

/// The certificates by GUID. An empty table is no bytes at all.
pub fn parse(table: &[u8]) -> Result<BTreeMap<[u8; 16], Vec<u8>>, InvalidTable> {
    let certificate = |entry: Entry| (entry.guid, table[entry.offset..entry.offset + entry.length].to_vec());
    Ok(entries(table)?.into_iter().map(certificate).collect())
}

/// How many of the bytes are the table's, where it comes in whole pages: 0 without entries, else up to the end of
/// the entries or of the last certificate.
pub fn used(table: &[u8]) -> Result<usize, InvalidTable> {
    let entries = entries(table)?;
    let end = (entries.len() + 1) * ENTRY_LEN;
    Ok(entries.iter().map(|entry| end.max(entry.offset + entry.length)).max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of entries with these ranges, and as many bytes behind its end.
    fn table(ranges: &[(u32, u32)], more: usize) -> Vec<u8> {
        let mut table = Vec::new();
        for (index, (offset, length)) in ranges.iter().enumerate() {
            table.extend([u8::try_from(index).expect("few") + 1; 16]);
            table.extend([offset.to_le_bytes(), length.to_le_bytes()].concat());
        }
        table.extend([0; ENTRY_LEN]);
        table.extend(vec![7; more]);
        table
    }

    #[test]
    fn a_table_ends_with_its_last_certificate_or_its_entries() {
        for (ranges, end) in [
            (&[][..], 0),
            (&[(0, 0)], 48),
            (&[(48, 10)], 58),
            (&[(0, 0), (0, 10)], 72),
            (&[(72, 10), (72, 2)], 82),
            (&[(0, 0), (0, 0), (0, 0)], 96),
        ] {
            assert_eq!(used(&table(ranges, 100)), Ok(end), "{ranges:?}");
        }
        assert_eq!(used(&[]), Ok(0));
    }

    #[test]
    fn a_table_has_an_end_and_a_number_of_entries() {
        let most = table(&[(0, 1); MAX_ENTRIES], 0);
        let error = InvalidTable::NoEnd { got: most.len() };
        assert_eq!(parse(&most), Err(error), "no room for the end");
        assert_eq!(
            parse(&table(&[(0, 1); MAX_ENTRIES - 1], 0)).map(|found| found.len()),
            Ok(MAX_ENTRIES - 1)
        );
        let got = ENTRY_LEN;
        assert_eq!(parse(&table(&[(0, 1)], 0)[..got]), Err(InvalidTable::NoEnd { got }));
    }
}
