//! The event log of a genuine boot replays to the registers of its quote, and no changed log does.
//!
//! Needs the vectors, see `tdx_vectors.rs`.

mod tdx_support;

use tdx_support::{case, vectors};
use verifier::tdx::Quote;
use verifier::tdx::event_log::{EventLog, EventLogError, MAX_EVENTS, MAX_LOG};

/// Quote and the part of its log that holds events.
fn quote_and_log() -> Option<(Quote, Vec<u8>)> {
    let dir = vectors()?;
    let case = case(&dir, "tdx-ccel-replay");
    assert_eq!(case.0["expected"]["rtmrs_match"], serde_json::json!([true, true, true, true]));
    let mut log = case.input(&dir, "event_log").expect("a log");
    let end = 1 + log.iter().rposition(|byte| *byte != 0xff).expect("events");
    // A few bytes of the table's filling stay.
    log.truncate(end + 16);
    Some((Quote::parse(&case.quote(&dir)).expect("well formed"), log))
}

#[test]
fn the_log_of_a_genuine_boot_replays_to_all_registers() {
    let Some(dir) = vectors() else { return };
    let case = case(&dir, "tdx-ccel-replay");
    let table = case.input(&dir, "event_log").expect("a log");
    let quote = Quote::parse(&case.quote(&dir)).expect("well formed");
    let log = EventLog::parse(&table).expect("well formed");
    assert_eq!(log.events().len(), 43);
    assert_eq!(log.check_against(&quote), Ok(()));
    assert!(log.events().iter().any(|event| event.data.starts_with(b"kernel_cmdline: ")));
}

#[test]
fn the_log_of_another_boot_does_not_replay() {
    let Some((_, log)) = quote_and_log() else { return };
    let other = case(&vectors().expect("there"), "tdx-v4-buildernet");
    let quote = Quote::parse(&other.quote(&vectors().expect("there"))).expect("well formed");
    let answer = EventLog::parse(&log).expect("well formed").check_against(&quote);
    assert!(matches!(answer, Err(EventLogError::Rtmr { index: 0, .. })), "{answer:?}");
}

#[test]
fn a_log_without_an_event_or_with_one_twice_or_in_another_order_does_not_replay() {
    let Some((quote, log)) = quote_and_log() else { return };
    let parsed = EventLog::parse(&log).expect("well formed");
    let offsets: Vec<_> = parsed.events().iter().map(|event| event.offset).collect();
    for pair in offsets.windows(2) {
        let (start, end) = (pair[0], pair[1]);
        let without = [&log[..start], &log[end..]].concat();
        let twice = [&log[..end], &log[start..]].concat();
        for altered in [without, twice] {
            let answer = EventLog::parse(&altered).expect("well formed").check_against(&quote);
            assert!(matches!(answer, Err(EventLogError::Rtmr { .. })), "event at {start:#x}: {answer:?}");
        }
    }
    let [first, second, third] = [offsets[0], offsets[1], offsets[2]];
    let swapped = [&log[..first], &log[second..third], &log[first..second], &log[third..]].concat();
    let answer = EventLog::parse(&swapped).expect("well formed").check_against(&quote);
    assert!(matches!(answer, Err(EventLogError::Rtmr { index: 0, .. })), "{answer:?}");
}

#[test]
fn every_changed_digest_names_the_register_it_belongs_to() {
    let Some((quote, log)) = quote_and_log() else { return };
    let parsed = EventLog::parse(&log).expect("well formed");
    for event in parsed.events() {
        let mut altered = log.clone();
        // Register, type, number of digests and algorithm come first.
        altered[event.offset + 14] ^= 1;
        let answer = EventLog::parse(&altered).expect("well formed").check_against(&quote);
        assert!(
            matches!(answer, Err(EventLogError::Rtmr { index, .. }) if index == event.rtmr),
            "event at {:#x}: {answer:?}",
            event.offset
        );
    }
}

#[test]
fn each_malformed_part_has_its_own_error() {
    let Some((_, log)) = quote_and_log() else { return };
    let first = EventLog::parse(&log).expect("well formed").events()[0].offset;
    let with = |offset: usize, bytes: &[u8]| {
        let mut altered = log.clone();
        altered[offset..offset + bytes.len()].copy_from_slice(bytes);
        EventLog::parse(&altered).expect_err("refused")
    };
    assert_eq!(with(4, &[4]), EventLogError::NoSpecId);
    assert_eq!(with(32, b"s"), EventLogError::NoSpecId);
    assert!(matches!(with(56, &[9]), EventLogError::Algorithms { problem: "more than 8", .. }));
    assert!(matches!(
        with(60, &[0x0b]),
        EventLogError::Algorithms { problem: "without SHA-384 of 48 bytes", .. }
    ));
    assert!(matches!(
        with(62, &[32]),
        EventLogError::Algorithms { problem: "without SHA-384 of 48 bytes", .. }
    ));
    assert!(matches!(with(28, &[0]), EventLogError::Truncated { .. }), "an empty first event");
    for index in [0_u8, 5, 255] {
        assert_eq!(
            with(first, &[index]),
            EventLogError::Register {
                offset: first,
                got: u32::from(index),
                wanted: "1 to 4 for RTMR0 to RTMR3"
            }
        );
    }
    assert_eq!(with(first + 8, &[2]), EventLogError::DigestCount { offset: first, got: 2, wanted: 1 });
    assert_eq!(with(first + 12, &[0x0b]), EventLogError::Algorithm { offset: first + 12, got: 0x0b });
    assert!(matches!(
        with(first + 62, &u32::MAX.to_le_bytes()),
        EventLogError::Truncated { what: "an event", .. }
    ));
    let got = MAX_LOG + 1;
    assert_eq!(EventLog::parse(&vec![0; got]), Err(EventLogError::TooLarge { got }));
}

#[test]
fn a_log_that_ends_early_is_never_taken_for_the_whole() {
    let Some((quote, log)) = quote_and_log() else { return };
    let end = log.len() - 16;
    for length in 0..end {
        let whole = EventLog::parse(&log[..length]).is_ok_and(|log| log.check_against(&quote).is_ok());
        assert!(!whole, "{length} of {end} bytes");
    }
}

#[test]
fn events_are_counted_and_those_that_extend_nothing_leave_no_trace() {
    let Some((_, log)) = quote_and_log() else { return };
    let first = EventLog::parse(&log).expect("well formed").events()[0].offset;
    let event = |event_type: u8| {
        let mut event = vec![0; 66];
        (event[0], event[4], event[8], event[12]) = (1, event_type, 1, 0x0c);
        event
    };
    let with =
        |count: usize, event_type: u8| [log[..first].to_vec(), event(event_type).repeat(count)].concat();
    let full = with(MAX_EVENTS, 13);
    assert_eq!(EventLog::parse(&full).expect("well formed").events().len(), MAX_EVENTS);
    let offset = full.len();
    let more = with(MAX_EVENTS + 1, 13);
    assert_eq!(EventLog::parse(&more), Err(EventLogError::TooManyEvents { offset }));
    let silent = with(2, 3);
    let silent = EventLog::parse(&silent).expect("well formed");
    assert_eq!((silent.events().len(), silent.replay()), (0, [[0; 48]; 4]));
}

#[test]
fn the_rest_of_the_table_is_all_ones_or_all_zeros() {
    let Some((quote, log)) = quote_and_log() else { return };
    let end = log.len() - 16;
    for filling in [0, 0xff] {
        let filled = [&log[..end], &[filling; 500]].concat();
        assert_eq!(EventLog::parse(&filled).expect("well formed").check_against(&quote), Ok(()));
        for at in [end, end + 499] {
            let mut altered = filled.clone();
            altered[at] ^= 0x10;
            assert!(EventLog::parse(&altered).is_err(), "{filling:#x} with another byte at {at:#x}");
        }
    }
}

#[test]
fn a_log_of_nothing_but_its_head_leaves_the_registers_zero() {
    let Some((_, log)) = quote_and_log() else { return };
    let first = EventLog::parse(&log).expect("well formed").events()[0].offset;
    assert_eq!(EventLog::parse(&log[..first]).expect("well formed").replay(), [[0; 48]; 4]);
}
