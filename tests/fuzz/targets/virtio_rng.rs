//! The driver alone.

use std::cell::RefCell;

use crate::driver::Machine;
use vmm::virtio::rng::Rng;

thread_local! {
    static MACHINE: RefCell<Machine> = RefCell::new({
        let mut parts = Rng::parts("rng");
        Machine::new(parts.device, parts.workers.remove(0), &[])
    });
}

/// Runs one driver.
pub fn run(data: &[u8]) {
    MACHINE.with_borrow_mut(|machine| machine.run(data, |_| {}));
}

pub fn seeds() -> Vec<Vec<u8>> {
    Vec::new()
}
