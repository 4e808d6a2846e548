//! Each test changes one thing in what an Ultravisor answers.

use super::super::tests::{Scripted, answer};
use super::*;

const PATH: &str = "/dev/uv";

fn path() -> PathBuf {
    PathBuf::from(PATH)
}

fn device(scripted: &Scripted) -> Ultravisor {
    Ultravisor::new(Path::new(PATH), Box::new(scripted.clone()))
}

fn code(call: &mut Call, code: u16, reason: u16) -> Result<(), i32> {
    put(call.block_mut(0), 4, &code.to_ne_bytes());
    put(call.block_mut(0), 6, &reason.to_ne_bytes());
    Ok(())
}

/// The argument's block, after a look at the control block.
fn argument(call: &Call, number: u32, length: usize) -> BlockIndex {
    assert_eq!((call.number(), call.block(0).len()), (number, 64));
    assert_eq!(call.block(0)[..8], [0; 8], "no flags, no codes");
    assert_eq!(u32::from_ne_bytes(call.field(0, 0x10)) as usize, length);
    assert_eq!(call.field::<44>(0, 0x14), [0; 44], "reserved");
    let argument = call.target(0, 8).expect("an address");
    assert_eq!(call.block(argument).len(), length);
    argument
}

#[test]
fn info_tells_what_device_and_ultravisor_can_do() {
    let scripted = Scripted::new([answer(|call| {
        let argument = argument(call, 0xc040_7500, 16);
        put(call.block_mut(argument), 0, &0x3f_u64.to_ne_bytes());
        put(call.block_mut(argument), 8, &0x1e_u64.to_ne_bytes());
        code(call, 1, 0)
    })]);
    assert_eq!(device(&scripted).info(), Ok(Supported { device: 0x3f, ultravisor: 0x1e }));
}

#[test]
fn an_attestation_request_is_answered_with_measurement_additional_data_and_configuration() {
    let scripted = Scripted::new([answer(|call| {
        let at = argument(call, 0xc040_7501, 0x138);
        let word = |offset| u32::from_ne_bytes(call.field(at, offset));
        assert_eq!((word(0x128), word(0x12c), word(0x130)), (7, 64, 32));
        assert_eq!(u16::from_ne_bytes(call.field(at, 0x134)), 3);
        assert_eq!(call.field::<2>(at, 0x136), [0; 2], "reserved");
        assert_eq!(call.field::<5>(at, 0x18), *b"abc\0\0");
        assert_eq!(call.block(call.target(at, 0).expect("a request")), b"request");
        let (measurement, additional) =
            (call.target(at, 8).expect("measurement"), call.target(at, 16).expect("additional"));
        assert_eq!((call.block(measurement).len(), call.block(additional).len()), (64, 32));
        call.block_mut(measurement).fill(1);
        call.block_mut(additional).fill(2);
        put(call.block_mut(at), 0x118, &[3; 16]);
        code(call, 1, 0)
    })]);
    let attested = device(&scripted).attest(b"request", b"abc", 64, 32).expect("attested");
    let wanted = Attested { measurement: vec![1; 64], additional_data: vec![2; 32], config_uid: [3; 16] };
    assert_eq!(attested, wanted);
}

#[test]
fn without_additional_data_no_address_is_given() {
    let scripted = Scripted::new([answer(|call| {
        let at = argument(call, 0xc040_7501, 0x138);
        assert_eq!((call.target(at, 16), u32::from_ne_bytes(call.field(at, 0x130))), (None, 0));
        code(call, 1, 0)
    })]);
    assert_eq!(device(&scripted).attest(b"r", b"", 64, 0).expect("attested").additional_data, b"");
}

#[test]
fn additional_data_may_be_shorter_than_asked_for_and_not_longer() {
    for (given, ok) in [(0, true), (31, true), (33, false), (u32::MAX, false)] {
        let scripted = Scripted::new([answer(move |call| {
            let at = argument(call, 0xc040_7501, 0x138);
            put(call.block_mut(at), 0x130, &given.to_ne_bytes());
            code(call, 1, 0)
        })]);
        let result =
            device(&scripted).attest(b"r", b"", 64, 32).map(|attested| attested.additional_data.len());
        let refused = AttesterError::Length {
            path: path(),
            what: "additional data of the answer",
            got: given as usize,
            least: 0,
            most: 32,
        };
        assert_eq!(result, if ok { Ok(given as usize) } else { Err(refused) });
    }
}

#[test]
fn lengths_that_the_driver_does_not_take_are_refused_before_it_is_asked() {
    let scripted = Scripted::new([answer(|_| Err(libc::EINVAL))]);
    let device = device(&scripted);
    let refused = |what, got, least, most| AttesterError::Length { path: path(), what, got, least, most };
    let long = vec![0; 0x10_0001];
    let request = |got| refused("attestation request", got, 1, 0x10_0000);
    assert_eq!(device.attest(b"", b"", 64, 0), Err(request(0)));
    assert_eq!(device.attest(&long, b"", 64, 0), Err(request(0x10_0001)));
    assert_eq!(device.attest(b"r", &long[..257], 64, 0), Err(refused("user data", 257, 0, 256)));
    assert_eq!(device.attest(b"r", b"", 0, 0), Err(refused("measurement", 0, 1, 0x8000)));
    assert_eq!(device.attest(b"r", b"", 0x8001, 0), Err(refused("measurement", 0x8001, 1, 0x8000)));
    assert_eq!(device.attest(b"r", b"", 1, 0x8001), Err(refused("additional data", 0x8001, 0, 0x8000)));
    let secret = |got| refused("request to add a secret", got, 1, 0x10_0000);
    assert_eq!(device.add_secret(b""), Err(secret(0)));
    assert_eq!(device.add_secret(&long), Err(secret(0x10_0001)));
    for length in [0, 1, 0x2001] {
        let entry = SecretEntry { index: 0, kind: 0, length, id: [0; 32] };
        let wanted = refused("secret", length as usize, 2, 0x2000);
        assert_eq!(device.retrieve_secret(&entry).map(|_| ()), Err(wanted));
    }
    assert_eq!(scripted.calls(), 0);
}

#[test]
fn the_longest_lengths_are_taken() {
    let scripted = Scripted::new([answer(|call| code(call, 1, 0))]);
    let device = device(&scripted);
    let long = vec![0; 0x10_0000];
    device.attest(&long, &long[..256], 0x8000, 0x8000).expect("attested");
    device.add_secret(&long).expect("added");
    let entry = SecretEntry { index: 0, kind: 0, length: 0x2000, id: [0; 32] };
    assert_eq!(device.retrieve_secret(&entry).expect("retrieved").len(), 0x2000);
}

#[test]
fn every_call_reports_the_ultravisors_refusal() {
    let entry = SecretEntry { index: 0, kind: 0, length: 32, id: [0; 32] };
    type Ask = Box<dyn Fn(&Ultravisor) -> Result<(), AttesterError>>;
    let calls: [(&str, Ask); 6] = [
        ("info", Box::new(|device| device.info().map(|_| ()))),
        ("attest", Box::new(|device| device.attest(b"r", b"", 64, 0).map(|_| ()))),
        ("add secret", Box::new(|device| device.add_secret(b"r"))),
        ("list secrets", Box::new(|device| device.list_secrets().map(|_| ()))),
        ("lock secrets", Box::new(Ultravisor::lock_secrets)),
        ("retrieve secret", Box::new(move |device| device.retrieve_secret(&entry).map(|_| ()))),
    ];
    for (name, ask) in calls {
        for refusal in [0, 2, 0x0102] {
            let scripted = Scripted::new([answer(move |call| code(call, refusal, 9))]);
            let wanted = AttesterError::Ultravisor { path: path(), call: name, code: refusal, reason: 9 };
            assert_eq!(ask(&device(&scripted)), Err(wanted));
        }
        let scripted = Scripted::new([answer(|call| code(call, 0x0100, 9))]);
        let refused = ask(&device(&scripted)).expect_err("more data is an answer of lists only");
        let list = matches!(refused, AttesterError::SecretList { .. });
        assert_eq!(list, name == "list secrets", "{refused}");
    }
}

#[test]
fn a_busy_device_is_asked_again_but_not_forever() {
    for errno in [libc::EAGAIN, libc::EBUSY, libc::EINTR] {
        let scripted = Scripted::new([answer(move |_| Err(errno)), answer(|call| code(call, 1, 0))]);
        device(&scripted).info().expect("info at the second attempt");
    }
    let scripted = Scripted::new([answer(|_| Err(libc::EBUSY))]);
    assert_eq!(device(&scripted).info(), Err(AttesterError::Busy { path: path(), attempts: 10 }));
    assert_eq!(scripted.calls(), 10);
}

#[test]
fn other_errors_of_the_kernel_name_the_call() {
    let scripted = Scripted::new([answer(|_| Err(libc::EINVAL))]);
    let refused = device(&scripted).lock_secrets().expect_err("refused");
    assert!(matches!(refused, AttesterError::Io { operation: "lock secrets", .. }), "{refused}");
    let scripted = Scripted::new([answer(|_| Err(libc::ENODEV))]);
    assert_eq!(device(&scripted).info(), Err(AttesterError::NoProvider { path: path() }));
    let refused = Ultravisor::open(Path::new("/nonexistent/uv")).map(|_| ()).expect_err("refused");
    assert!(matches!(refused, AttesterError::Io { operation: "open", .. }), "{refused}");
}

#[test]
fn locking_gives_no_argument() {
    let scripted = Scripted::new([answer(|call| {
        assert_eq!((call.number(), call.target(0, 8)), (0xc040_7504, None));
        assert_eq!(call.block(0), [0; 64]);
        code(call, 1, 0)
    })]);
    device(&scripted).lock_secrets().expect("locked");
}

#[test]
fn a_secret_is_added_by_the_owners_request() {
    let scripted = Scripted::new([answer(|call| {
        let at = argument(call, 0xc040_7502, 7);
        assert_eq!(call.block(at), b"request");
        code(call, 1, 0)
    })]);
    device(&scripted).add_secret(b"request").expect("added");
}

/// Puts so many entries into a list and states these numbers in its header.
fn list(call: &mut Call, entries: u16, stored: u16, total: u16) {
    let at = call.target(0, 8).expect("an address");
    let block = call.block_mut(at);
    put(block, 0, &stored.to_ne_bytes());
    put(block, 2, &total.to_ne_bytes());
    for index in 0..entries {
        let offset = 16 + usize::from(index) * 48;
        put(block, offset, &index.to_ne_bytes());
        put(block, offset + 2, &5_u16.to_ne_bytes());
        put(block, offset + 4, &32_u32.to_ne_bytes());
        put(block, offset + 16, &[index.to_le_bytes()[0]; 32]);
    }
}

#[test]
fn secrets_are_listed_in_one_page_where_one_is_enough() {
    let scripted = Scripted::new([answer(|call| {
        argument(call, 0xc040_7503, 0x1000);
        list(call, 85, 85, 85);
        code(call, 1, 0)
    })]);
    let entries = device(&scripted).list_secrets().expect("listed");
    assert_eq!((entries.len(), scripted.calls()), (85, 1));
    assert_eq!(entries[84], SecretEntry { index: 84, kind: 5, length: 32, id: [84; 32] });
}

#[test]
fn a_longer_list_is_asked_for_again_in_more_pages() {
    let scripted = Scripted::new([
        answer(|call| {
            list(call, 85, 85, 86);
            code(call, 0x0100, 0)
        }),
        answer(|call| {
            argument(call, 0xc040_7503, 0x8000);
            list(call, 86, 86, 86);
            code(call, 1, 0)
        }),
    ]);
    assert_eq!(device(&scripted).list_secrets().expect("listed").len(), 86);
}

#[test]
fn a_list_that_is_not_whole_is_refused() {
    for (stored, total, answered) in [(85, 86, 1), (86, 85, 1), (683, 683, 1), (3, 3, 0x0100)] {
        let scripted = Scripted::new([answer(move |call| {
            list(call, 3, stored, total);
            code(call, answered, 0)
        })]);
        let wanted = AttesterError::SecretList {
            path: path(),
            stored: usize::from(stored),
            total: usize::from(total),
            most: 682,
        };
        assert_eq!(device(&scripted).list_secrets(), Err(wanted));
    }
}

#[test]
fn a_secret_is_retrieved_by_its_index() {
    let scripted = Scripted::new([answer(|call| {
        let at = argument(call, 0xc040_7505, 32);
        assert_eq!(call.block(at)[..2], 0x1234_u16.to_ne_bytes());
        assert_eq!(call.block(at)[2..], [0; 30]);
        call.block_mut(at).fill(9);
        code(call, 1, 0)
    })]);
    let entry = SecretEntry { index: 0x1234, kind: 5, length: 32, id: [0; 32] };
    assert_eq!(**device(&scripted).retrieve_secret(&entry).expect("retrieved"), [9; 32]);
}
