//! The key service as a process of its own. It alone opens the TEE device and holds private bytes; build-server, which
//! reads what strangers send, asks it over a socket pair and can neither read its memory nor outlive its answers.
//!
//! ```text
//! launcher ──control socket──► enclave-keys          one byte `k` once a TEE is found; then connections come to it
//!     └──────starts──────────► build-server ──────►  frames: the first starts the instance, each other is a request
//! ```
//!
//! - [`KeyProcess`] answers; [`KeyClient`] asks; [`frame`] is what travels.
//! - A build-server that ends loses no key: the launcher hands the next one a new connection, and the instance goes on
//!   when it is asked for with the same inputs.
//! - When the key process ends, every question is answered with [`KeyFailure::Stopped`] and nothing is signed any more.

mod client;
mod failure;
mod frame;
mod harden;
mod seccomp;
mod server;

pub use client::KeyClient;
pub use failure::KeyFailure;
pub use frame::{Frame, FrameError, MAX_ANSWER, MAX_REQUEST};
pub use harden::{NotHardened, confine, protect};
pub use server::{
    ControlEnded, KeyProcess, MAX_OPEN_BYTES, hand_over, own_socket, receive, wait_until_ready,
};

/// Reads frames until the end: the inputs of the instance, then requests. Each is written as it was understood and read
/// again. For [`crate::fuzzing`].
#[cfg(any(test, fuzzing))]
pub(crate) fn read_questions(mut bytes: &[u8]) -> bool {
    use frame::Frame;

    let mut questions = 0;
    while let Ok(Some(frame)) = Frame::read(&mut bytes, MAX_REQUEST) {
        let again = if questions == 0 {
            let Ok(inputs) = frame.parse::<crate::InstanceInputs>() else { return false };
            let again = Frame::of(frame.number, &inputs);
            assert_eq!(again.parse::<crate::InstanceInputs>().expect("own words"), inputs);
            again
        } else {
            let Ok(request) = frame.parse::<crate::KeyRequest>() else { return false };
            let again = Frame::of(frame.number, &request);
            assert_eq!(again.parse::<crate::KeyRequest>().expect("own words"), request);
            again
        };
        let mut written = Vec::new();
        again.write(&mut written, MAX_ANSWER).expect("no longer than an answer");
        let read = Frame::read(&mut written.as_slice(), MAX_ANSWER);
        assert_eq!(read.expect("own frame"), Some(again));
        questions += 1;
    }
    questions > 1 && bytes.is_empty()
}
