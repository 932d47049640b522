//! ACPI's sleep registers of a hardware-reduced platform (ACPI 6.5, 4.8.3.7) and the power button's interrupt.

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Request;

/// The sleep type that `_S5_` in the DSDT names.
pub const SLEEP_TYPE_OFF: u8 = 5;
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;

/// The sleep control register, and the events behind the Generic Event Device.
#[derive(Debug)]
pub struct PowerRegisters {
    button: EventFd,
    hotplug: EventFd,
}

impl PowerRegisters {
    /// # Errors
    /// When the host has no descriptor left.
    pub fn new() -> std::io::Result<Self> {
        Ok(PowerRegisters { button: EventFd::new(EFD_NONBLOCK)?, hotplug: EventFd::new(EFD_NONBLOCK)? })
    }

    /// The interrupt of the power button, and that of hot-plug.
    pub fn interrupts(&self) -> [(u32, &EventFd); 2] {
        [(super::POWER_BUTTON_INTERRUPT, &self.button), (super::HOTPLUG_INTERRUPT, &self.hotplug)]
    }

    /// Presses the power button: the guest shuts down if it listens.
    pub fn press(&self) {
        // The counter can only be at its end when the interrupt is pending.
        let _ = self.button.write(1);
    }

    /// Tells the guest to look at the hot-plug registers.
    pub fn tell_hotplug(&self) {
        let _ = self.hotplug.write(1);
    }

    pub(super) fn sleep(&self, control: u8) -> Option<Request> {
        (control == SLEEP_ENABLE | SLEEP_TYPE_OFF << SLEEP_TYPE_SHIFT).then_some(Request::PowerOff)
    }

    /// The platform was never asleep: the wake status bit stays clear.
    pub(super) fn sleep_status(&self) -> u8 {
        0
    }
}
