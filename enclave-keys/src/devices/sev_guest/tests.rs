//! Each test changes one thing in what a firmware answers.

use super::super::tests::{Scripted, answer};
use super::*;

const DATA: ReportData = ReportData([7; 64]);
const PATH: &str = "/dev/sev-guest";

fn path() -> PathBuf {
    PathBuf::from(PATH)
}

fn device(scripted: &Scripted) -> SevGuest {
    SevGuest::new(Path::new(PATH), Box::new(scripted.clone()), 1)
}

fn request_and_response(call: &Call) -> (BlockIndex, BlockIndex) {
    let target = |offset| call.target(0, offset).expect("an address");
    (target(layout::REQUEST_DATA), target(layout::REQUEST_RESPONSE))
}

fn word(call: &Call, index: BlockIndex, offset: usize) -> u32 {
    u32::from_ne_bytes(call.field(index, offset))
}

/// A report that repeats its data, as the firmware puts it into its response.
fn give_report(call: &mut Call) -> Result<(), i32> {
    let (request, response) = request_and_response(call);
    let data: [u8; 64] = call.field(request, 0);
    let out = call.block_mut(response);
    assert_eq!(out.len(), 4000);
    put(out, 4, &1184_u32.to_le_bytes());
    put(out, 0x20, &3_u32.to_le_bytes());
    put(out, 0x20 + 0x50, &data);
    put(out, 0x20 + 1183, &[0xee]);
    Ok(())
}

fn fail(call: &mut Call, errno: i32, host: u32, firmware: u32) -> Result<(), i32> {
    put(call.block_mut(0), 24, &firmware.to_ne_bytes());
    put(call.block_mut(0), 28, &host.to_ne_bytes());
    Err(errno)
}

fn table() -> Vec<u8> {
    certificate_table::encode(&[(certificate_table::VCEK, b"certificate\0")])
}

#[test]
fn a_report_is_asked_for_with_version_1_data_and_privilege_level() {
    let scripted = Scripted::new([answer(|call| {
        assert_eq!((call.number(), call.block(0).len(), call.block(0)[0]), (0xc020_5300, 32, 1));
        let (request, _) = request_and_response(call);
        let wanted = [&[7; 64][..], &1_u32.to_ne_bytes(), &[0; 28]].concat();
        assert_eq!(call.block(request), wanted);
        give_report(call)
    })]);
    let report = device(&scripted).report(&DATA).expect("a report");
    assert_eq!((report.len(), &report[0x50..0x90], report[1183]), (1184, &DATA.0[..], 0xee));
}

#[test]
fn evidence_is_an_extended_report_with_the_hosts_table() {
    let scripted = Scripted::new([answer(|call| {
        assert_eq!(call.number(), 0xc020_5302);
        let (request, _) = request_and_response(call);
        assert_eq!((call.block(request).len(), word(call, request, 104)), (112, 16 << 10));
        let certificates = call.target(request, 96).expect("an address");
        assert_eq!(call.block(certificates).len(), 16 << 10);
        put(call.block_mut(certificates), 0, &table());
        give_report(call)
    })]);
    let evidence = device(&scripted).evidence(&DATA).expect("Evidence");
    assert_eq!((evidence.platform, evidence.report.len()), (Platform::SevSnp, 1184));
    assert_eq!(evidence.endorsements, table(), "without the padding of the pages");
}

#[test]
fn a_host_need_not_send_certificates() {
    let scripted = Scripted::new([answer(give_report)]);
    assert_eq!(device(&scripted).evidence(&DATA).expect("Evidence").endorsements, b"");
}

#[test]
fn certificates_that_are_no_table_are_refused() {
    let scripted = Scripted::new([answer(|call| {
        let (request, _) = request_and_response(call);
        let certificates = call.target(request, 96).expect("an address");
        call.block_mut(certificates).fill(1);
        give_report(call)
    })]);
    let refused = device(&scripted).evidence(&DATA).expect_err("refused");
    assert!(matches!(refused, AttesterError::Certificates(_)), "{refused}");
}

/// The host wants so many bytes for its certificates, each time it is asked.
fn wants(bytes: u32) -> impl FnMut(&mut Call) -> Result<(), i32> + Send + 'static {
    move |call| {
        let (request, _) = request_and_response(call);
        put(call.block_mut(request), 104, &bytes.to_ne_bytes());
        fail(call, libc::EIO, 1, 0)
    }
}

#[test]
fn the_buffer_for_certificates_grows_once() {
    let scripted = Scripted::new([
        answer(wants(20 << 10)),
        answer(|call| {
            let (request, _) = request_and_response(call);
            assert_eq!(word(call, request, 104), 20 << 10);
            let certificates = call.target(request, 96).expect("an address");
            assert_eq!(call.block(certificates).len(), 20 << 10);
            give_report(call)
        }),
    ]);
    device(&scripted).evidence(&DATA).expect("Evidence at the second attempt");

    let scripted = Scripted::new([answer(wants(20 << 10)), answer(wants(24 << 10))]);
    let refused = device(&scripted).evidence(&DATA).expect_err("refused");
    let wanted = AttesterError::CertificateBuffer {
        path: path(),
        wanted: 24 << 10,
        offered: 20 << 10,
        limit: 64 << 10,
    };
    assert_eq!((refused, scripted.calls()), (wanted, 2));
}

#[test]
fn the_buffer_for_certificates_has_a_limit_and_whole_pages() {
    for (bytes, grows) in [
        (16 << 10, false),
        (20_481, false),
        (64 << 10, true),
        (68 << 10, false),
        (u32::MAX, false),
        (0, false),
    ] {
        let scripted = Scripted::new([answer(wants(bytes)), answer(give_report)]);
        let result = device(&scripted).evidence(&DATA);
        assert_eq!((result.is_ok(), scripted.calls()), (grows, 1 + usize::from(grows)), "{bytes}");
        if let Err(error) = result {
            let wanted = AttesterError::CertificateBuffer {
                path: path(),
                wanted: bytes as usize,
                offered: 16 << 10,
                limit: 64 << 10,
            };
            assert_eq!(error, wanted);
        }
    }
}

#[test]
fn too_short_a_buffer_where_none_was_given_is_the_hosts_fault() {
    let scripted = Scripted::new([answer(|call| fail(call, libc::EIO, 1, 0))]);
    let by = WipedBy::Host { code: 1 };
    assert_eq!(device(&scripted).report(&DATA), Err(AttesterError::KeyWiped { path: path(), by }));
    let request = KeyRequest { fields: 0, vmpl: 0, guest_svn: 0, tcb_version: [0; 8] };
    let refused = device(&scripted).derived_key(&request).map(|_| ()).expect_err("refused");
    assert_eq!(refused, AttesterError::KeyWiped { path: path(), by });
}

#[test]
fn errors_that_wipe_the_key_end_the_device() {
    let wiping: [(i32, u32, u32, WipedBy); 6] = [
        (libc::EIO, 0, 0x16, WipedBy::Firmware { code: 0x16 }),
        (libc::EIO, 7, 0, WipedBy::Host { code: 7 }),
        (libc::EIO, 7, 0x16, WipedBy::Host { code: 7 }),
        (libc::ETIMEDOUT, 0, 0, WipedBy::Throttled),
        (libc::EBADMSG, 0, 0, WipedBy::DamagedResponse),
        (libc::ENOTTY, 0, 0, WipedBy::Before),
    ];
    for (errno, host, firmware, by) in wiping {
        let scripted =
            Scripted::new([answer(move |call| fail(call, errno, host, firmware)), answer(give_report)]);
        let device = device(&scripted);
        let wanted = AttesterError::KeyWiped { path: path(), by };
        assert_eq!(device.evidence(&DATA), Err(wanted.clone()));
        assert_eq!(device.evidence(&DATA), Err(wanted.clone()), "the first reason stays");
        assert_eq!(device.report(&DATA), Err(wanted));
        assert_eq!(scripted.calls(), 1, "a wiped key is not asked for again");
    }
}

#[test]
fn a_busy_device_is_asked_again_but_not_forever() {
    let busy: [(i32, u32); 4] = [(libc::EAGAIN, 0), (libc::EBUSY, 0), (libc::EINTR, 0), (libc::EIO, 2)];
    for (errno, host) in busy {
        let scripted = Scripted::new([answer(move |call| fail(call, errno, host, 0)), answer(give_report)]);
        device(&scripted).evidence(&DATA).expect("Evidence at the second attempt");
    }
    let scripted = Scripted::new([answer(|call| fail(call, libc::EBUSY, 0, 0))]);
    let refused = device(&scripted).report(&DATA);
    assert_eq!(refused, Err(AttesterError::Busy { path: path(), attempts: 10 }));
    assert_eq!(scripted.calls(), 10);
}

#[test]
fn a_throttled_request_that_cost_the_key_says_so() {
    let scripted = Scripted::new([answer(|call| fail(call, libc::EIO, 2, 0)), answer(|_| Err(libc::ENOTTY))]);
    let refused = device(&scripted).report(&DATA);
    assert_eq!(refused, Err(AttesterError::KeyWiped { path: path(), by: WipedBy::Before }));
}

#[test]
fn an_earlier_attempts_reason_is_not_the_next_ones() {
    let scripted = Scripted::new([answer(|call| fail(call, libc::EIO, 2, 0)), answer(|_| Err(libc::EIO))]);
    let by = WipedBy::Firmware { code: 0 };
    assert_eq!(device(&scripted).report(&DATA), Err(AttesterError::KeyWiped { path: path(), by }));
}

#[test]
fn errors_before_the_firmware_was_asked_leave_the_device_usable() {
    for errno in [libc::EINVAL, libc::EFAULT, libc::ENOMEM] {
        let scripted = Scripted::new([answer(move |call| fail(call, errno, 0, 0xff)), answer(give_report)]);
        let device = device(&scripted);
        let refused = device.report(&DATA).expect_err("refused");
        assert!(matches!(refused, AttesterError::Io { operation: "ioctl", .. }), "{refused}");
        device.report(&DATA).expect("a report");
    }
    for errno in [libc::ENXIO, libc::ENODEV] {
        let scripted = Scripted::new([answer(move |_| Err(errno))]);
        assert_eq!(device(&scripted).report(&DATA), Err(AttesterError::NoProvider { path: path() }));
    }
}

#[test]
fn a_response_with_a_status_is_refused_and_leaves_the_device_usable() {
    let scripted = Scripted::new([
        answer(|call| {
            give_report(call)?;
            let (_, response) = request_and_response(call);
            put(call.block_mut(response), 0, &0x16_u32.to_le_bytes());
            Ok(())
        }),
        answer(give_report),
    ]);
    let device = device(&scripted);
    assert_eq!(device.report(&DATA), Err(AttesterError::FirmwareStatus { path: path(), status: 0x16 }));
    device.report(&DATA).expect("a report");
}

#[test]
fn a_response_that_states_another_length_is_refused() {
    for got in [0, 1183, 1185, u32::MAX] {
        let scripted = Scripted::new([answer(move |call| {
            give_report(call)?;
            let (_, response) = request_and_response(call);
            put(call.block_mut(response), 4, &got.to_le_bytes());
            Ok(())
        })]);
        let wanted = AttesterError::ReportLength { path: path(), got, wanted: 1184 };
        assert_eq!(device(&scripted).evidence(&DATA), Err(wanted));
    }
}

#[test]
fn a_key_is_derived_by_a_request_of_32_bytes() {
    let scripted = Scripted::new([answer(|call| {
        assert_eq!((call.number(), call.block(0)[0]), (0xc020_5301, 1));
        let (request, response) = request_and_response(call);
        let wanted = [
            &[0; 8][..],
            &0b11_1001_u64.to_ne_bytes(),
            &2_u32.to_ne_bytes(),
            &5_u32.to_ne_bytes(),
            &[4, 0, 0, 0, 0, 0, 0x18, 0xdb],
        ]
        .concat();
        assert_eq!(call.block(request), wanted);
        assert_eq!(call.block(response).len(), 64);
        put(call.block_mut(response), 0x20, &[0xaa; 32]);
        Ok(())
    })]);
    let fields = field::POLICY | field::MEASUREMENT | field::GUEST_SVN | field::TCB_VERSION;
    let request = KeyRequest { fields, vmpl: 2, guest_svn: 5, tcb_version: [4, 0, 0, 0, 0, 0, 0x18, 0xdb] };
    assert_eq!(*device(&scripted).derived_key(&request).expect("a key").0, [0xaa; 32]);
}

#[test]
fn no_key_comes_from_a_response_with_a_status() {
    let scripted = Scripted::new([answer(|call| {
        let (_, response) = request_and_response(call);
        put(call.block_mut(response), 0, &0x27_u32.to_le_bytes());
        Ok(())
    })]);
    let request = KeyRequest { fields: 0, vmpl: 0, guest_svn: 0, tcb_version: [0; 8] };
    let refused = device(&scripted).derived_key(&request).map(|_| ()).expect_err("refused");
    assert_eq!(refused, AttesterError::FirmwareStatus { path: path(), status: 0x27 });
}

#[test]
fn a_device_that_cannot_be_opened_is_named() {
    let refused = SevGuest::open(Path::new("/nonexistent/sev-guest"), 0).map(|_| ()).expect_err("refused");
    assert!(matches!(refused, AttesterError::Io { operation: "open", .. }), "{refused}");
}
