//! A software TEE that can be held, counted and made to err. NOT HARDWARE.

use std::sync::{Arc, Condvar, Mutex};

use enclave_keys::{Attester, AttesterError, SealingRoot};
use provenance::binding::ReportData;
use provenance::evidence::{Evidence, Platform};
use provenance::instance::KeyOrigin;

use super::SoftwareTee;

/// What the next device calls do.
type Script = Box<dyn FnMut(Evidence) -> Result<Evidence, AttesterError> + Send>;

struct State {
    calls: u64,
    held: bool,
    script: Script,
}

/// Cheap to clone; the test keeps one handle and gives another to the key service.
#[derive(Clone)]
pub struct ScriptedTee(Arc<(SoftwareTee, Mutex<State>, Condvar)>);

impl ScriptedTee {
    /// Answers as `tee` does.
    #[must_use]
    pub fn new(tee: SoftwareTee) -> Self {
        let state = State { calls: 0, held: false, script: Box::new(Ok) };
        Self(Arc::new((tee, Mutex::new(state), Condvar::new())))
    }

    /// The software TEE behind it.
    #[must_use]
    pub fn tee(&self) -> &SoftwareTee {
        &self.0.0
    }

    /// From now on, passes every answer through `script`.
    pub fn script(&self, script: impl FnMut(Evidence) -> Result<Evidence, AttesterError> + Send + 'static) {
        self.0.1.lock().expect("no panic under the lock").script = Box::new(script);
    }

    /// From now on, calls do not return until [`Self::release`].
    pub fn hold(&self) {
        self.0.1.lock().expect("no panic under the lock").held = true;
    }

    /// Lets held calls return.
    pub fn release(&self) {
        self.0.1.lock().expect("no panic under the lock").held = false;
        self.0.2.notify_all();
    }

    /// Handles to this TEE, this one included.
    #[must_use]
    pub fn handles(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// Device calls begun so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.0.1.lock().expect("no panic under the lock").calls
    }
}

impl Attester for ScriptedTee {
    fn platform(&self) -> Platform {
        Platform::SevSnp
    }

    fn key_origin(&self) -> KeyOrigin {
        KeyOrigin::DangerousSoftware
    }

    fn sealing_root(&self) -> Result<Option<SealingRoot>, AttesterError> {
        Attester::sealing_root(self.tee())
    }

    fn evidence(&self, data: &ReportData) -> Result<Evidence, AttesterError> {
        let (tee, state, wake) = &*self.0;
        let mut state = state.lock().expect("no panic under the lock");
        state.calls += 1;
        let mut state = wake.wait_while(state, |state| state.held).expect("no panic under the lock");
        (state.script)(Attester::evidence(tee, data)?)
    }
}
