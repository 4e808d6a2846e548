//! A Secure Execution answer recorded on an IBM z16, and copies of it with each bit changed. That each recorded case is
//! answered as stated is in `vectors.rs`.
//!
//! The vectors are not part of the repository. `SEALWRIGHT_VECTORS` names their directory, by default
//! `../shared/vectors` beside the repository. Without them the tests are skipped with a message, but fail in CI.

mod se_support;

use std::path::Path;

use se_support::{der, judged_at, read, vectors};
use verifier::secure_execution::exchange::Part;
use verifier::secure_execution::{
    ExchangeError, ExchangeRequest, ExchangeResponse, HeaderError, OwnRequest, ProtectionKey, RequestError,
    SeError, dangerous_authenticate_with_unchecked_host_keys,
};

fn protection_key(bytes: &[u8]) -> ProtectionKey {
    ProtectionKey::new(bytes.try_into().expect("32 bytes"))
}

struct Z16 {
    response: Vec<u8>,
    header: Vec<u8>,
    request: Vec<u8>,
    key: Vec<u8>,
    documents: [Vec<u8>; 1],
}

impl Z16 {
    fn read(dir: &Path) -> Self {
        let response = read(dir, "se/z16/response.bin");
        Self {
            request: ExchangeResponse::parse(&response).expect("well formed").request().to_vec(),
            response,
            header: read(dir, "se/z16/se_header.bin"),
            key: read(dir, "se/z16/arpk.bin"),
            documents: [der(&read(dir, "se/z16/hkd.crt"))],
        }
    }

    fn own(&self) -> OwnRequest {
        OwnRequest::open(&self.request, &protection_key(&self.key)).expect("the key opens it")
    }
}

/// Copies of `good` with one bit flipped, every bit of every byte of `range`.
fn flips(good: &[u8], range: std::ops::Range<usize>) -> impl Iterator<Item = (usize, Vec<u8>)> {
    range.flat_map(move |at| {
        (0..8).map(move |bit| {
            let mut altered = good.to_vec();
            altered[at] ^= 1 << bit;
            (at, altered)
        })
    })
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// What an altered entry of the exchange format's header must give.
fn wanted_of_entry(altered: &[u8], part: Part) -> ExchangeError {
    let good = [(0x190, 0x40), (0x40, 0x1d0), (0x40, 0x210), (0x2e, 0x250), (0x10, 0x27e)];
    let (total, entry) = (0x28e, part.entry());
    let (_, start) = good[part as usize];
    let (size, offset) = (be32(altered, entry), be32(altered, entry + 4));
    let length = usize::try_from(size).expect("64 bits");
    let next = Part::ALL.get(part as usize + 1).map(|next| (*next, good[*next as usize].1));
    let skipped = |wanted: usize| match next {
        Some((part, got)) => ExchangeError::PartOffset {
            part,
            got: u32::try_from(got).expect("small"),
            wanted,
            entry: part.entry(),
        },
        None => ExchangeError::Trailing { offset: wanted, got: total - wanted },
    };
    if length > part.limit() {
        return ExchangeError::TooLong { part, got: size, limit: part.limit(), entry };
    }
    match usize::try_from(offset).expect("64 bits") {
        0 => skipped(start),
        at if at != start => ExchangeError::PartOffset { part, got: offset, wanted: start, entry },
        _ if start + length > total => {
            ExchangeError::PartEnd { part, end: start + length, got: total, entry }
        }
        _ => skipped(start + length),
    }
}

#[test]
fn every_bit_of_a_response_counts_and_each_has_its_error() {
    let Some(dir) = vectors() else { return };
    let z16 = Z16::read(&dir);
    let own = z16.own();
    let check = |range: std::ops::Range<usize>, wanted: &dyn Fn(usize, &[u8]) -> SeError| {
        for (at, altered) in flips(&z16.response, range) {
            let got = dangerous_authenticate_with_unchecked_host_keys(
                &altered,
                &z16.header,
                &own,
                &z16.documents,
                judged_at(),
            );
            assert_eq!(got, Err(wanted(at, &altered)), "byte {at:#x}");
        }
    };
    let total = z16.response.len();
    check(0x00..0x08, &|_, altered| ExchangeError::Magic { got: hex::encode(&altered[..8]) }.into());
    check(0x08..0x0c, &|_, altered| ExchangeError::Version { got: be32(altered, 0x08) }.into());
    check(0x0c..0x10, &|_, altered| ExchangeError::Size { stated: be32(altered, 0x0c), got: total }.into());
    check(0x10..0x18, &|at, altered| ExchangeError::Reserved { offset: at, got: altered[at] }.into());
    for part in Part::ALL {
        check(part.entry()..part.entry() + 8, &|_, altered| wanted_of_entry(altered, part).into());
    }
    check(0x40..0x1d0, &|_, altered| SeError::OtherRequest {
        got: provenance::digest::Sha256Digest::of(&altered[0x40..0x1d0]),
        wanted: provenance::digest::Sha256Digest::of(&z16.request),
    });
    let tag = hex::encode(&z16.header[0x400..]);
    check(0x1d0..0x28e, &|_, _| SeError::Measurement { tag: tag.clone() });

    for length in 0..total {
        let got = ExchangeResponse::parse(&z16.response[..length]).expect_err("cut");
        let stated = u32::try_from(total).expect("small");
        let size = ExchangeError::Size { stated, got: length };
        assert_eq!(got, if length < 0x40 { ExchangeError::Length { got: length } } else { size });
    }
    let mut longer = z16.response.clone();
    longer.push(0);
    assert!(matches!(ExchangeResponse::parse(&longer), Err(ExchangeError::Size { .. })));
    let length = u32::try_from(longer.len()).expect("small");
    longer[0x0c..0x10].copy_from_slice(&length.to_be_bytes());
    assert_eq!(ExchangeResponse::parse(&longer), Err(ExchangeError::Trailing { offset: total, got: 1 }));
}

#[test]
fn every_bit_of_a_request_counts_and_each_has_its_error() {
    let Some(dir) = vectors() else { return };
    let z16 = Z16::read(&dir);
    let check = |range: std::ops::Range<usize>, wanted: &dyn Fn(usize, &[u8]) -> RequestError| {
        for (at, altered) in flips(&z16.request, range) {
            let got = OwnRequest::open(&altered, &protection_key(&z16.key)).err();
            assert_eq!(got, Some(wanted(at, &altered)), "byte {at:#x}");
        }
    };
    let total = z16.request.len();
    let reserved = |at: usize, altered: &[u8]| RequestError::Reserved { offset: at, got: altered[at] };
    let not_own = |_: usize, _: &[u8]| RequestError::NotOwn;
    check(0x00..0x08, &|_, altered| RequestError::Magic { got: hex::encode(&altered[..8]) });
    check(0x08..0x0c, &|_, altered| RequestError::Version { got: be32(altered, 0x08) });
    check(0x0c..0x10, &|_, altered| RequestError::Size { stated: be32(altered, 0x0c), got: total });
    check(0x10..0x1c, &not_own);
    check(0x1c..0x27, &reserved);
    check(0x27..0x28, &|_, altered| match altered[0x27] {
        0 => RequestError::NoKeySlot,
        slots => RequestError::Parts { slots, wanted: 0xe0 + 80 * usize::from(slots) + 96, got: total },
    });
    check(0x28..0x2c, &reserved);
    check(0x2c..0x30, &|_, altered| RequestError::EncryptedLength { got: be32(altered, 0x2c), wanted: 80 });
    check(0x30..0x38, &|_, altered| {
        let flags = u64::from_be_bytes(altered[0x30..0x38].try_into().expect("eight bytes"));
        match flags ^ 0x7000_0000_0000_0000 {
            0x4000_0000_0000_0000 => RequestError::EncryptedLength { got: 80, wanted: 64 },
            0x2000_0000_0000_0000 => RequestError::HashNotWanted { flags, which: "image" },
            0x1000_0000_0000_0000 => RequestError::HashNotWanted { flags, which: "attestation" },
            0x0800_0000_0000_0000 | 0x0400_0000_0000_0000 => RequestError::NotOwn,
            _ => RequestError::UnknownFlags { got: flags },
        }
    });
    check(0x38..0x3c, &|_, altered| RequestError::Algorithm { got: be32(altered, 0x38) });
    check(0x3c..0x40, &reserved);
    // Customer key, key slot, encrypted part, tag.
    check(0x40..total, &not_own);

    for (at, key) in flips(&z16.key, 0..z16.key.len()) {
        let got = OwnRequest::open(&z16.request, &protection_key(&key)).err();
        assert_eq!(got, Some(RequestError::NotOwn), "byte {at:#x} of the key");
    }
    for length in 0..total {
        let got = OwnRequest::open(&z16.request[..length], &protection_key(&z16.key)).err();
        let stated = u32::try_from(total).expect("small");
        let size = RequestError::Size { stated, got: length };
        assert_eq!(
            got,
            Some(if length < 384 { RequestError::Length { got: length, wanted: 384 } } else { size })
        );
    }
}

#[test]
fn every_bit_of_a_header_that_is_read_counts_and_each_has_its_error() {
    let Some(dir) = vectors() else { return };
    let z16 = Z16::read(&dir);
    let own = z16.own();
    let judge = |header: &[u8]| {
        dangerous_authenticate_with_unchecked_host_keys(
            &z16.response,
            header,
            &own,
            &z16.documents,
            judged_at(),
        )
    };
    let good = judge(&z16.header).expect("genuine");
    let check = |range: std::ops::Range<usize>, wanted: &dyn Fn(usize, &[u8]) -> SeError| {
        for (at, altered) in flips(&z16.header, range) {
            assert_eq!(judge(&altered), Err(wanted(at, &altered)), "byte {at:#x}");
        }
    };
    let total = z16.header.len();
    let be64 =
        |bytes: &[u8], at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let measurement = |_: usize, altered: &[u8]| SeError::Measurement { tag: hex::encode(&altered[0x400..]) };
    check(0x000..0x008, &|_, altered| HeaderError::Magic { got: hex::encode(&altered[..8]) }.into());
    check(0x008..0x00c, &|_, altered| HeaderError::Version { got: be32(altered, 0x08) }.into());
    check(0x00c..0x010, &|_, altered| HeaderError::Size { stated: be32(altered, 0x0c), got: total }.into());
    check(0x01c..0x020, &|at, altered| HeaderError::Reserved { offset: at, got: altered[at] }.into());
    check(0x020..0x030, &|_, altered| {
        let (slots, encrypted) = (be64(altered, 0x20), be64(altered, 0x28));
        HeaderError::Parts { slots, encrypted, got: total }.into()
    });
    check(0x0e0..0x1a0, &measurement);
    check(0x400..total, &measurement);
    // Vector, page count, flags, customer key, key slots and encrypted part: a measurement covers them through the
    // tag only, and nothing here reads them.
    for range in [0x010..0x01c, 0x030..0x0e0, 0x1a0..0x400] {
        for (at, altered) in flips(&z16.header, range) {
            assert_eq!(judge(&altered).as_ref(), Ok(&good), "byte {at:#x}");
        }
    }
    for length in [0, 0x1af, 0x2001] {
        assert_eq!(judge(&vec![0; length]), Err(HeaderError::Length { got: length }.into()));
    }
    assert_eq!(
        judge(&z16.header[..total - 1]),
        Err(HeaderError::Size { stated: u32::try_from(total).expect("small"), got: total - 1 }.into())
    );
}

#[test]
fn samples_of_the_exchange_format_are_read() {
    let Some(dir) = vectors() else { return };
    let sample = |name: &str| read(&dir, &format!("se/exchange-format/{name}.bin"));
    for (name, additional, user) in
        [("min_resp", 0, 0), ("add_resp", 0x20, 0), ("user_resp", 0, 0x100), ("full", 0x20, 0x100)]
    {
        let bytes = sample(name);
        let response = ExchangeResponse::parse(&bytes).expect(name);
        assert_eq!(response.request(), [0x11; 0x10], "{name}");
        assert_eq!(response.measurement(), [0x12; 0x40], "{name}");
        assert_eq!(response.additional_data(), vec![0x13; additional], "{name}");
        assert_eq!(response.config_uid(), &[0x14; 0x10], "{name}");
        assert_eq!(response.user_data(), vec![0x15; user], "{name}");
        let error = ExchangeRequest::parse(&bytes).expect_err("no request");
        assert_eq!(
            error,
            ExchangeError::Unexpected { part: Part::Measurement, document: "request", entry: 0x20 }
        );
    }
    let bytes = sample("full_req");
    let request = ExchangeRequest::parse(&bytes).expect("a request");
    assert_eq!(request.request(), [0x11; 0x10]);
    assert_eq!((request.measurement_length(), request.additional_data_length()), (0x40, 0x20));
    let error = ExchangeResponse::parse(&bytes).expect_err("no response");
    assert_eq!(error, ExchangeError::Missing { part: Part::Measurement, entry: 0x20 });

    // A request may do without additional data, but not without a measurement.
    let mut plain = bytes.clone();
    plain[0x28..0x2c].fill(0);
    assert_eq!(ExchangeRequest::parse(&plain).expect("a request").additional_data_length(), 0);
    plain[0x20..0x24].fill(0);
    let error = ExchangeRequest::parse(&plain).expect_err("no measurement");
    assert_eq!(error, ExchangeError::Missing { part: Part::Measurement, entry: 0x20 });
    let mut announced = bytes;
    announced[0x33] = 1;
    let error = ExchangeRequest::parse(&announced).expect_err("user data");
    assert_eq!(error, ExchangeError::Unexpected { part: Part::UserData, document: "request", entry: 0x30 });
}
