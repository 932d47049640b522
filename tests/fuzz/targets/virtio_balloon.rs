//! Its host wishes anything of the guest.

use std::cell::RefCell;
use std::sync::Arc;

use crate::driver::Machine;
use vmm::virtio::balloon::Balloon;

thread_local! {
    static MACHINE: RefCell<(Arc<Balloon>, Machine)> = RefCell::new({
        let (balloon, mut parts) = Balloon::new("balloon").expect("there are descriptors");
        (balloon, Machine::new(parts.device, parts.workers.remove(0), &[]))
    });
}

/// Runs one driver.
pub fn run(data: &[u8]) {
    MACHINE.with_borrow_mut(|(balloon, machine)| {
        machine.run(data, |bytes| {
            balloon.set_target_bytes(bytes.iter().map(|&byte| u64::from(byte) << 12).sum());
            std::hint::black_box((balloon.statistics(), balloon.actual_bytes()));
        });
    });
}

pub fn seeds() -> Vec<Vec<u8>> {
    Vec::new()
}
