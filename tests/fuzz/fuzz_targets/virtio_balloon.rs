#![no_main]

use std::cell::RefCell;
use std::sync::Arc;

use fuzz::{Input, Machine};
use libfuzzer_sys::fuzz_target;
use vmm::virtio::balloon::Balloon;

thread_local! {
    static MACHINE: RefCell<(Arc<Balloon>, Machine)> = RefCell::new({
        let (balloon, mut parts) = Balloon::new("balloon").expect("there are descriptors");
        (balloon, Machine::new(parts.device, parts.workers.remove(0), &[]))
    });
}

fuzz_target!(|input: Input| {
    MACHINE.with_borrow_mut(|(balloon, machine)| {
        machine.run(input.features, &input.steps, |bytes| {
            balloon.set_target_bytes(bytes.iter().map(|&byte| u64::from(byte) << 12).sum());
            std::hint::black_box((balloon.statistics(), balloon.actual_bytes()));
        });
    });
});
