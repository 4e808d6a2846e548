//! The stand-in at the ioctl call, and the kernel's own call.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::*;

pub(crate) type Answer = Box<dyn FnMut(&mut Call) -> Result<(), i32> + Send>;

/// Answers one call after the other by a script; the last answer repeats.
#[derive(Clone)]
pub(crate) struct Scripted(Arc<Mutex<Script>>);

struct Script {
    answers: VecDeque<Answer>,
    calls: usize,
}

impl Scripted {
    pub(crate) fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self(Arc::new(Mutex::new(Script { answers: answers.into_iter().collect(), calls: 0 })))
    }

    pub(crate) fn calls(&self) -> usize {
        self.0.lock().expect("no panic under the lock").calls
    }
}

pub(crate) fn answer(with: impl FnMut(&mut Call) -> Result<(), i32> + Send + 'static) -> Answer {
    Box::new(with)
}

impl IoctlCall for Scripted {
    fn perform(&self, call: &mut Call) -> io::Result<()> {
        let script = &mut *self.0.lock().expect("no panic under the lock");
        script.calls += 1;
        if script.answers.len() > 1 && script.calls > 1 {
            script.answers.pop_front();
        }
        let answer = script.answers.front_mut().expect("a script has an answer");
        answer(call).map_err(io::Error::from_raw_os_error)
    }
}

#[test]
fn the_kernel_is_called_with_addresses_of_the_blocks() {
    use std::io::Write as _;
    // FIONREAD answers with an i32 at the argument's address; it has no size field, so the number is put in by hand.
    const FIONREAD: u32 = 0x541b;
    let (reader, mut writer) = io::pipe().expect("a pipe");
    writer.write_all(b"seven b").expect("written");
    let file = std::fs::File::from(std::os::fd::OwnedFd::from(reader));
    let mut call = Call {
        number: FIONREAD,
        blocks: vec![Zeroizing::new(vec![0; 24]), Zeroizing::new(vec![0; 5])],
        pointers: vec![Pointer { holder: 0, offset: 16, target: 1 }],
    };
    let target = call.blocks[1].as_ptr().expose_provenance() as u64;
    KernelDevice(file).perform(&mut call).expect("a pipe knows FIONREAD");
    assert_eq!(i32::from_ne_bytes(call.field(0, 0)), 7);
    assert_eq!(u64::from_ne_bytes(call.field(0, 16)), target);
    assert_eq!(call.field::<12>(0, 4), [0; 12], "nothing else is touched");
}

#[test]
fn the_kernels_errno_comes_back() {
    let file = KernelDevice::open(Path::new("/dev/null")).expect("opened");
    let mut call = Call::new(read_write_number(b'S', 0, 32), vec![0; 32]);
    let error = file.perform(&mut call).expect_err("/dev/null knows no such call");
    assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
}

#[test]
fn numbers_are_those_of_asm_generic_ioctl() {
    assert_eq!(read_write_number(b'S', 2, 32), 0xc020_5302);
    assert_eq!(size_of_number(0xc020_5302), 32);
}

#[test]
#[should_panic(expected = "the number states the argument's size")]
fn an_argument_of_another_size_than_its_number_states_is_a_bug() {
    let _ = Call::new(read_write_number(b'S', 2, 32), vec![0; 31]);
}

#[test]
#[should_panic(expected = "a pointer lies within its block")]
fn a_pointer_outside_its_block_is_a_bug() {
    Call::new(read_write_number(b'S', 2, 32), vec![0; 32]).attach(0, 25, Vec::new());
}

#[test]
fn a_busy_device_is_asked_ten_times() {
    assert_eq!(attempts().take(2).count(), 2, "nobody waits for attempts that are not wanted");
    assert_eq!(attempts().count(), BUSY_ATTEMPTS as usize);
}
