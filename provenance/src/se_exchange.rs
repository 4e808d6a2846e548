//! Secure Execution: the pvattest exchange format, version 1: labelled blobs of an attestation request or of its answer, as the
//! `pvattest` tool of s390-tools writes them. All integers are big-endian.
//!
//! A header of [`HEADER_LEN`] bytes, then the parts in the order of [`Part`]. The header has an entry of size and
//! offset for each part. A size without offset announces a part that is not there yet: how many bytes the answer to a
//! request will need. Read more strictly than the tool does: the parts follow one another without a gap, and nothing
//! follows the last.

use std::fmt;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 0x40;
/// Bytes 0 to 7.
pub const MAGIC: [u8; 8] = *b"pvattest";
/// Version 1 as it is written.
pub const VERSION: u32 = 0x100;
/// Longest attestation request in bytes (UVIO_ATT_ARCB_MAX_LEN of Linux' `asm/uvdevice.h`).
pub const MAX_REQUEST: usize = 0x10_0000;
/// Longest measurement in bytes (UVIO_ATT_MEASUREMENT_MAX_LEN).
pub const MAX_MEASUREMENT: usize = 0x8000;
/// Longest additional data in bytes (UVIO_ATT_ADDITIONAL_MAX_LEN).
pub const MAX_ADDITIONAL_DATA: usize = 0x8000;
/// Longest user data in bytes (UVIO_ATT_USER_DATA_LEN).
pub const MAX_USER_DATA: usize = 0x100;
/// Length of a configuration unique id in bytes (UVIO_ATT_UID_LEN).
pub const CONFIG_UID_LEN: usize = 0x10;

/// Offsets of the header's fields, in bytes.
pub mod offset {
    crate::layout! {
        /// Magic, 8 bytes.
        pub const MAGIC: usize = 0x00;
        /// Version, u32.
        pub const VERSION: usize = 0x08;
        /// Length of the whole, u32.
        pub const SIZE: usize = 0x0c;
        /// Reserved, 8 bytes, zero.
        pub const RESERVED: usize = 0x10;
        /// Five entries of size(u32) and offset(u32).
        pub const ENTRIES: usize = 0x18;
    }
}

/// A part, in the order of the header's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Attestation request (ARCB).
    Request,
    /// Measurement.
    Measurement,
    /// Additional data.
    AdditionalData,
    /// User data.
    UserData,
    /// Configuration unique id.
    ConfigUid,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 5] =
        [Self::Request, Self::Measurement, Self::AdditionalData, Self::UserData, Self::ConfigUid];

    /// Longest that is read, in bytes.
    #[must_use]
    pub const fn limit(self) -> usize {
        match self {
            Self::Request => MAX_REQUEST,
            Self::Measurement => MAX_MEASUREMENT,
            Self::AdditionalData => MAX_ADDITIONAL_DATA,
            Self::UserData => MAX_USER_DATA,
            Self::ConfigUid => CONFIG_UID_LEN,
        }
    }

    /// Offset of its entry in the header.
    #[must_use]
    pub const fn entry(self) -> usize {
        offset::ENTRIES + 8 * self as usize
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "attestation request",
            Self::Measurement => "measurement",
            Self::AdditionalData => "additional data",
            Self::UserData => "user data",
            Self::ConfigUid => "configuration unique id",
        })
    }
}

/// Why bytes are not in the exchange format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// Too short for the header.
    #[error("exchange format has {got} bytes, its header alone has {HEADER_LEN}")]
    Length {
        /// Bytes seen.
        got: usize,
    },
    /// Other magic bytes.
    #[error("exchange format begins with {got}, wanted `pvattest` (offset 0x0)")]
    Magic {
        /// Bytes seen, hex.
        got: String,
    },
    /// Another version.
    #[error("exchange format version is {got:#x}, wanted {VERSION:#x} (offset 0x8)")]
    Version {
        /// Version seen.
        got: u32,
    },
    /// The length it states is not its length.
    #[error("exchange format states {stated} bytes (offset 0xc) and has {got}")]
    Size {
        /// Length stated.
        stated: u32,
        /// Bytes there are.
        got: usize,
    },
    /// A reserved byte is not zero.
    #[error("reserved byte of the exchange format is {got:#04x}, wanted 0 (offset {offset:#x})")]
    Reserved {
        /// Offset of the byte.
        offset: usize,
        /// The byte seen.
        got: u8,
    },
    /// A part is too long.
    #[error("{part} has {got} bytes, at most {limit} are read (entry at offset {entry:#x})")]
    TooLong {
        /// The part.
        part: Part,
        /// Length stated.
        got: u32,
        /// The limit.
        limit: usize,
        /// Offset of its entry.
        entry: usize,
    },
    /// A part does not begin where the one before ends.
    #[error("{part} is at offset {got:#x}, wanted {wanted:#x} (entry at offset {entry:#x})")]
    PartOffset {
        /// The part.
        part: Part,
        /// Offset stated.
        got: u32,
        /// End of the part before.
        wanted: usize,
        /// Offset of its entry.
        entry: usize,
    },
    /// A part ends behind the last byte.
    #[error("{part} ends at offset {end:#x}, there are {got:#x} bytes (entry at offset {entry:#x})")]
    PartEnd {
        /// The part.
        part: Part,
        /// End of the part.
        end: usize,
        /// Bytes there are.
        got: usize,
        /// Offset of its entry.
        entry: usize,
    },
    /// Bytes follow the last part.
    #[error("{got} bytes follow the last part (offset {offset:#x})")]
    Trailing {
        /// Offset of the first.
        offset: usize,
        /// How many.
        got: usize,
    },
    /// A part that must be there is not.
    #[error("{part} is missing (entry at offset {entry:#x})")]
    Missing {
        /// The part.
        part: Part,
        /// Offset of its entry.
        entry: usize,
    },
    /// A part that does not belong there.
    #[error("{part} does not belong into a {document} (entry at offset {entry:#x})")]
    Unexpected {
        /// The part.
        part: Part,
        /// `request` or `response`.
        document: &'static str,
        /// Offset of its entry.
        entry: usize,
    },
    /// A configuration unique id of another length.
    #[error("configuration unique id has {got} bytes, wanted {CONFIG_UID_LEN} (entry at offset 0x38)")]
    ConfigUidLength {
        /// Bytes seen.
        got: usize,
    },
}

/// What the header says about a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry<'a> {
    Absent,
    /// A size only.
    Announced(u32),
    Bytes(&'a [u8]),
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..at + 4).and_then(|field| field.try_into().ok());
    u32::from_be_bytes(field.expect("the header is there in full"))
}

fn parse(bytes: &[u8]) -> Result<[Entry<'_>; 5], ExchangeError> {
    let got = bytes.len();
    let (header, _) = bytes.split_at_checked(HEADER_LEN).ok_or(ExchangeError::Length { got })?;
    if header[..MAGIC.len()] != MAGIC {
        return Err(ExchangeError::Magic { got: hex::encode(&header[..MAGIC.len()]) });
    }
    let version = u32_at(header, offset::VERSION);
    if version != VERSION {
        return Err(ExchangeError::Version { got: version });
    }
    let stated = u32_at(header, offset::SIZE);
    if usize::try_from(stated) != Ok(got) {
        return Err(ExchangeError::Size { stated, got });
    }
    if let Some(at) = header[offset::RESERVED..offset::ENTRIES].iter().position(|byte| *byte != 0) {
        let offset = offset::RESERVED + at;
        return Err(ExchangeError::Reserved { offset, got: header[offset] });
    }
    let mut entries = [Entry::Absent; 5];
    let mut next = HEADER_LEN;
    for (part, slot) in Part::ALL.into_iter().zip(&mut entries) {
        let entry = part.entry();
        let (size, at) = (u32_at(header, entry), u32_at(header, entry + 4));
        let limit = part.limit();
        let length = usize::try_from(size).ok().filter(|length| *length <= limit);
        let length = length.ok_or(ExchangeError::TooLong { part, got: size, limit, entry })?;
        *slot = match (length, usize::try_from(at)) {
            // The tool writes the running offset for a part that is there and empty.
            (0, Ok(at)) if at == 0 || at == next => Entry::Absent,
            (_, Ok(0)) => Entry::Announced(size),
            (_, Ok(at)) if at == next => {
                let end = at + length;
                let part_bytes =
                    bytes.get(at..end).ok_or(ExchangeError::PartEnd { part, end, got, entry })?;
                next = end;
                Entry::Bytes(part_bytes)
            }
            _ => return Err(ExchangeError::PartOffset { part, got: at, wanted: next, entry }),
        };
    }
    if next != got {
        return Err(ExchangeError::Trailing { offset: next, got: got - next });
    }
    Ok(entries)
}

fn missing(part: Part) -> ExchangeError {
    ExchangeError::Missing { part, entry: part.entry() }
}

/// What a requester hands to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExchangeRequest<'a> {
    request: &'a [u8],
    measurement_length: u32,
    additional_data_length: u32,
}

impl<'a> ExchangeRequest<'a> {
    /// Parses a request: an attestation request, and the lengths that the answer needs.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ExchangeError> {
        let [request, measurement, additional, user_data, config_uid] = parse(bytes)?;
        let unexpected =
            |part: Part| ExchangeError::Unexpected { part, document: "request", entry: part.entry() };
        let Entry::Bytes(request) = request else { return Err(missing(Part::Request)) };
        let announced = |part, entry| match entry {
            Entry::Absent => Ok(0),
            Entry::Announced(length) => Ok(length),
            Entry::Bytes(_) => Err(unexpected(part)),
        };
        let measurement_length = match announced(Part::Measurement, measurement)? {
            0 => return Err(missing(Part::Measurement)),
            length => length,
        };
        let additional_data_length = announced(Part::AdditionalData, additional)?;
        for (part, entry) in [(Part::UserData, user_data), (Part::ConfigUid, config_uid)] {
            if entry != Entry::Absent {
                return Err(unexpected(part));
            }
        }
        Ok(Self { request, measurement_length, additional_data_length })
    }

    /// The attestation request (ARCB).
    #[must_use]
    pub fn request(&self) -> &'a [u8] {
        self.request
    }

    /// Bytes that the measurement will have.
    #[must_use]
    pub fn measurement_length(&self) -> u32 {
        self.measurement_length
    }

    /// Bytes that the additional data will have.
    #[must_use]
    pub fn additional_data_length(&self) -> u32 {
        self.additional_data_length
    }
}

/// What a guest hands back. Form checked, nothing believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExchangeResponse<'a> {
    request: &'a [u8],
    measurement: &'a [u8],
    additional_data: &'a [u8],
    user_data: &'a [u8],
    config_uid: &'a [u8; CONFIG_UID_LEN],
}

impl<'a> ExchangeResponse<'a> {
    /// A response of these parts, each within its limit ([`Part::limit`]); request and measurement must not be empty.
    pub fn new(
        request: &'a [u8],
        measurement: &'a [u8],
        additional_data: &'a [u8],
        user_data: &'a [u8],
        config_uid: &'a [u8; CONFIG_UID_LEN],
    ) -> Result<Self, ExchangeError> {
        let response = Self { request, measurement, additional_data, user_data, config_uid };
        for (part, bytes) in Part::ALL.into_iter().zip(response.parts()) {
            let (limit, entry) = (part.limit(), part.entry());
            if bytes.len() > limit {
                let got = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                return Err(ExchangeError::TooLong { part, got, limit, entry });
            }
            if bytes.is_empty() && matches!(part, Part::Request | Part::Measurement) {
                return Err(missing(part));
            }
        }
        Ok(response)
    }

    /// In the order of [`Part`].
    fn parts(&self) -> [&'a [u8]; 5] {
        [self.request, self.measurement, self.additional_data, self.user_data, self.config_uid]
    }

    /// The response in the exchange format; parts that are empty are absent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let size = |bytes: usize| u32::try_from(bytes).expect("five parts within their limits").to_be_bytes();
        let total = HEADER_LEN + self.parts().iter().map(|part| part.len()).sum::<usize>();
        let mut out = [&MAGIC[..], &VERSION.to_be_bytes(), &size(total), &[0; 8]].concat();
        let mut next = HEADER_LEN;
        for part in self.parts() {
            out.extend_from_slice(&size(part.len()));
            out.extend_from_slice(&size(if part.is_empty() { 0 } else { next }));
            next += part.len();
        }
        for part in self.parts() {
            out.extend_from_slice(part);
        }
        out
    }

    /// Parses a response. Additional data and user data may be absent, which is as good as empty.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ExchangeError> {
        let [request, measurement, additional, user_data, config_uid] = parse(bytes)?;
        let bytes_of = |part, entry| match entry {
            Entry::Absent => Ok(None),
            Entry::Announced(_) => Err(missing(part)),
            Entry::Bytes(bytes) => Ok(Some(bytes)),
        };
        let required = |part, entry| bytes_of(part, entry)?.ok_or(missing(part));
        let request = required(Part::Request, request)?;
        let measurement = required(Part::Measurement, measurement)?;
        let additional_data = bytes_of(Part::AdditionalData, additional)?.unwrap_or_default();
        let user_data = bytes_of(Part::UserData, user_data)?.unwrap_or_default();
        let config_uid = required(Part::ConfigUid, config_uid)?;
        let config_uid =
            config_uid.try_into().map_err(|_| ExchangeError::ConfigUidLength { got: config_uid.len() })?;
        Ok(Self { request, measurement, additional_data, user_data, config_uid })
    }

    /// The attestation request (ARCB) that it answers.
    #[must_use]
    pub fn request(&self) -> &'a [u8] {
        self.request
    }

    /// The measurement.
    #[must_use]
    pub fn measurement(&self) -> &'a [u8] {
        self.measurement
    }

    /// Additional data, empty when there is none.
    #[must_use]
    pub fn additional_data(&self) -> &'a [u8] {
        self.additional_data
    }

    /// User data, up to [`MAX_USER_DATA`] bytes.
    #[must_use]
    pub fn user_data(&self) -> &'a [u8] {
        self.user_data
    }

    /// Configuration unique id.
    #[must_use]
    pub fn config_uid(&self) -> &'a [u8; CONFIG_UID_LEN] {
        self.config_uid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response<'a>(additional: &'a [u8], user_data: &'a [u8]) -> ExchangeResponse<'a> {
        ExchangeResponse::new(b"request", &[1; 64], additional, user_data, &[9; 16])
            .expect("within the limits")
    }

    #[test]
    fn what_is_encoded_is_read_again() {
        for response in [response(b"additional", b"user"), response(b"", b"user"), response(b"", b"")] {
            assert_eq!(ExchangeResponse::parse(&response.encode()), Ok(response));
        }
    }

    #[test]
    fn messages_name_the_part() {
        let message = |part| missing(part).to_string();
        for (part, name) in [
            (Part::Request, "attestation request"),
            (Part::Measurement, "measurement"),
            (Part::AdditionalData, "additional data"),
            (Part::UserData, "user data"),
            (Part::ConfigUid, "configuration unique id"),
        ] {
            assert!(message(part).contains(name), "{}", message(part));
        }
    }

    #[test]
    fn a_response_is_laid_out_as_the_tool_does() {
        let bytes = response(b"", b"user").encode();
        let header = "7076617474657374 00000100 0000009b 0000000000000000 00000007 00000040 00000040 00000047 \
                      00000000 00000000 00000004 00000087 00000010 0000008b";
        assert_eq!(hex::encode(&bytes[..HEADER_LEN]), header.replace(' ', ""));
        let parts = [&b"request"[..], &[1; 64], b"user", &[9; 16]].concat();
        assert_eq!(bytes[HEADER_LEN..], parts);
    }

    #[test]
    fn a_response_has_a_request_a_measurement_and_limits() {
        let long = vec![0; MAX_REQUEST + 1];
        let made = |parts: [usize; 4]| {
            let [request, measurement, additional, user_data] = parts.map(|length| &long[..length]);
            ExchangeResponse::new(request, measurement, additional, user_data, &[0; 16]).map(|_| ())
        };
        assert_eq!(made([MAX_REQUEST, MAX_MEASUREMENT, MAX_ADDITIONAL_DATA, MAX_USER_DATA]), Ok(()));
        assert_eq!(made([0, 64, 0, 0]), Err(missing(Part::Request)));
        assert_eq!(made([1, 0, 0, 0]), Err(missing(Part::Measurement)));
        let too_long = |part: Part| {
            let got = u32::try_from(part.limit() + 1).expect("small");
            Err(ExchangeError::TooLong { part, got, limit: part.limit(), entry: part.entry() })
        };
        assert_eq!(made([MAX_REQUEST + 1, 64, 0, 0]), too_long(Part::Request));
        assert_eq!(made([1, MAX_MEASUREMENT + 1, 0, 0]), too_long(Part::Measurement));
        assert_eq!(made([1, 64, MAX_ADDITIONAL_DATA + 1, 0]), too_long(Part::AdditionalData));
        assert_eq!(made([1, 64, 0, MAX_USER_DATA + 1]), too_long(Part::UserData));
    }
}
