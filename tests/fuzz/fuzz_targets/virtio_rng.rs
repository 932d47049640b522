#![no_main]

use std::cell::RefCell;

use fuzz::{Input, Machine};
use libfuzzer_sys::fuzz_target;
use vmm::virtio::rng::Rng;

thread_local! {
    static MACHINE: RefCell<Machine> = RefCell::new({
        let mut parts = Rng::parts("rng");
        Machine::new(parts.device, parts.workers.remove(0), &[])
    });
}

fuzz_target!(|input: Input| {
    MACHINE.with_borrow_mut(|machine| machine.run(input.features, &input.steps, |_| {}));
});
