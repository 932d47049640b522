//! A virtual machine of KVM: its RAM slots, its interrupt controller and its interrupt routes.
//!
//! Made in the order that costs least: RAM slots before the interrupt controller, since afterwards each slot waits
//! for an RCU grace period.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KvmIrqRouting, kvm_clock_data,
    kvm_irq_routing_entry, kvm_irqchip, kvm_irqchip__bindgen_ty_1, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, NoDatamatch, VcpuFd, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use crate::memory::{GuestRam, KVM_IDENTITY_MAP, KVM_TSS};
use crate::suspend::format::{Decoder, Encoder, FormatError, Record};

/// Pins of the I/O APIC; interrupts from here on are MSI routes.
const IO_APIC_PINS: u32 = 24;

/// What KVM must be able to do, with the name under which its documentation lists it.
const NEEDED: [(Cap, &str); 13] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::TscDeadlineTimer, "KVM_CAP_TSC_DEADLINE_TIMER"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// The capabilities that a machine needs and `kvm` lacks.
pub(crate) fn missing_capabilities(kvm: &Kvm) -> impl Iterator<Item = &'static str> {
    NEEDED.iter().filter(|(capability, _)| !kvm.check_extension(*capability)).map(|(_, name)| *name)
}

#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    #[error("KVM on this host lacks {capability}")]
    Lacks { capability: &'static str },
    #[error("{call}")]
    Call { call: &'static str, source: kvm_ioctls::Error },
}

fn call(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmError {
    move |source| KvmError::Call { call, source }
}

/// Where an MSI goes: what a driver writes into an MSI-X table entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MsiMessage {
    pub address: u64,
    pub data: u32,
}

const CHIP_BYTES: usize = 512;
/// Both PICs, then the I/O APIC: their numbers are those of KVM.
const CHIPS: usize = 3;

/// What CPUs share, of a machine that stands still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRecord {
    chips: [[u8; CHIP_BYTES]; CHIPS],
    /// The clock that KVM shows the guest, in nanoseconds.
    clock_ns: u64,
}

impl Record for VmRecord {
    fn encode(&self, to: &mut Encoder) {
        self.chips.iter().for_each(|chip| to.bytes(chip));
        to.u64(self.clock_ns);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, FormatError> {
        let mut chips = [[0; CHIP_BYTES]; CHIPS];
        for chip in &mut chips {
            *chip = from.array("an interrupt controller")?;
        }
        Ok(VmRecord { chips, clock_ns: from.u64("the guest's clock")? })
    }
}

/// A virtual machine. Dropping it frees what the kernel holds for it.
pub struct Vm {
    fd: VmFd,
    routes: Mutex<Routes>,
}

/// The routes of MSI interrupts by their global number.
#[derive(Default)]
struct Routes {
    msi: BTreeMap<u32, MsiMessage>,
    taken: std::collections::BTreeSet<u32>,
}

impl Vm {
    /// Makes a machine that has `ram` and an interrupt controller, and no CPU yet.
    ///
    /// # Errors
    /// [`KvmError`] when KVM lacks something or refuses.
    pub fn new(kvm: &Kvm, ram: &GuestRam) -> Result<Arc<Self>, KvmError> {
        if let Some(capability) = missing_capabilities(kvm).next() {
            return Err(KvmError::Lacks { capability });
        }
        let fd = kvm.create_vm().map_err(call("KVM_CREATE_VM"))?;
        for (slot, region) in (0u32..).zip(ram.iter()) {
            let slot = kvm_userspace_memory_region {
                slot,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr().addr() as u64,
                flags: 0,
            };
            // SAFETY: the region is mapped for as long as the process lives, with this size.
            unsafe { fd.set_user_memory_region(slot) }.map_err(call("KVM_SET_USER_MEMORY_REGION"))?;
        }
        fd.set_identity_map_address(KVM_IDENTITY_MAP).map_err(call("KVM_SET_IDENTITY_MAP_ADDR"))?;
        fd.set_tss_address(KVM_TSS).map_err(call("KVM_SET_TSS_ADDR"))?;
        fd.create_irq_chip().map_err(call("KVM_CREATE_IRQCHIP"))?;
        Ok(Arc::new(Vm { fd, routes: Mutex::default() }))
    }

    /// # Errors
    /// [`KvmError`] when KVM refuses.
    pub fn create_vcpu(&self, index: u8) -> Result<VcpuFd, KvmError> {
        self.fd.create_vcpu(u64::from(index)).map_err(call("KVM_CREATE_VCPU"))
    }

    /// Connects `event` to pin `pin` of the I/O APIC: each signal is one edge.
    ///
    /// # Errors
    /// [`KvmError`] when KVM refuses.
    pub fn connect_pin(&self, pin: u32, event: &EventFd) -> Result<(), KvmError> {
        self.fd.register_irqfd(event, pin).map_err(call("KVM_IRQFD"))
    }

    /// Undoes [`Vm::connect_pin`]: an event can be connected to one machine at a time.
    ///
    /// # Errors
    /// [`KvmError`] when KVM refuses.
    pub fn disconnect_pin(&self, pin: u32, event: &EventFd) -> Result<(), KvmError> {
        self.fd.unregister_irqfd(event, pin).map_err(call("KVM_IRQFD"))
    }

    /// Takes a free interrupt number for an MSI.
    pub fn take_interrupt(&self) -> u32 {
        let mut routes = self.routes();
        let free = (IO_APIC_PINS..).find(|number| !routes.taken.contains(number)).unwrap_or(IO_APIC_PINS);
        routes.taken.insert(free);
        free
    }

    /// Gives an interrupt number back; nothing is connected to it any more.
    pub fn give_back_interrupt(&self, number: u32) {
        let mut routes = self.routes();
        routes.taken.remove(&number);
        routes.msi.remove(&number);
    }

    /// Lets interrupt `number` send `message`, and connects `event` to it.
    ///
    /// # Errors
    /// [`KvmError`] when KVM refuses.
    pub fn connect_msi(&self, number: u32, message: MsiMessage, event: &EventFd) -> Result<(), KvmError> {
        let mut routes = self.routes();
        if routes.msi.get(&number) != Some(&message) {
            // Ours changes when KVM has taken the new one: a route it refuses must not stand in the next table.
            let mut msi = routes.msi.clone();
            msi.insert(number, message);
            self.fd.set_gsi_routing(&routing_table(&msi)?).map_err(call("KVM_SET_GSI_ROUTING"))?;
            routes.msi = msi;
        }
        self.fd.register_irqfd(event, number).map_err(call("KVM_IRQFD"))
    }

    /// Disconnects `event` from interrupt `number`: what is signalled from now on waits in the event.
    ///
    /// # Errors
    /// [`KvmError`] when KVM refuses.
    pub fn disconnect_msi(&self, number: u32, event: &EventFd) -> Result<(), KvmError> {
        self.fd.unregister_irqfd(event, number).map_err(call("KVM_IRQFD"))
    }

    /// Keeps what the guest writes to the four ports from `port` on for [`KeptWrites`](crate::kept_writes::KeptWrites),
    /// without an exit. False when this KVM cannot, and every write leaves the guest.
    ///
    /// # Errors
    /// [`KvmError`] when KVM refuses.
    pub fn keep_writes(&self, port: u16) -> Result<bool, KvmError> {
        let can = self.fd.check_extension(Cap::CoalescedPio);
        if can {
            let ports = IoEventAddress::Pio(u64::from(port));
            self.fd.register_coalesced_mmio(ports, 4).map_err(call("KVM_REGISTER_COALESCED_MMIO"))?;
        }
        Ok(can)
    }

    /// Signals `event`, without leaving the kernel, whenever the guest writes to `port`.
    ///
    /// # Errors
    /// [`KvmError`] when KVM refuses.
    pub fn connect_port(&self, port: u16, event: &EventFd) -> Result<(), KvmError> {
        self.fd
            .register_ioevent(event, &IoEventAddress::Pio(port.into()), NoDatamatch)
            .map_err(call("KVM_IOEVENTFD"))
    }

    /// Undoes [`Vm::connect_port`].
    ///
    /// # Errors
    /// [`KvmError`] when KVM refuses.
    pub fn disconnect_port(&self, port: u16, event: &EventFd) -> Result<(), KvmError> {
        self.fd
            .unregister_ioevent(event, &IoEventAddress::Pio(port.into()), NoDatamatch)
            .map_err(call("KVM_IOEVENTFD"))
    }

    /// The state of what CPUs share; none of them runs.
    ///
    /// # Errors
    /// [`KvmError`] when KVM refuses.
    pub fn record(&self) -> Result<VmRecord, KvmError> {
        let mut chips = [[0; CHIP_BYTES]; CHIPS];
        for (chip_id, bytes) in (0..).zip(&mut chips) {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            self.fd.get_irqchip(&mut chip).map_err(call("KVM_GET_IRQCHIP"))?;
            // SAFETY: all of the union's bytes were zero before KVM filled some, and any bytes are these.
            *bytes = unsafe { std::mem::transmute::<kvm_irqchip__bindgen_ty_1, [u8; CHIP_BYTES]>(chip.chip) };
        }
        let clock_ns = self.fd.get_clock().map_err(call("KVM_GET_CLOCK"))?.clock;
        Ok(VmRecord { chips, clock_ns })
    }

    /// Makes what CPUs share what it was. They have their own states already: an interrupt that waits goes to them at once.
    ///
    /// # Errors
    /// [`KvmError`] when KVM refuses.
    pub fn restore(&self, record: &VmRecord) -> Result<(), KvmError> {
        for (chip_id, &bytes) in (0..).zip(&record.chips) {
            // SAFETY: the union's members are made of integers: any bytes are one.
            let chip = unsafe { std::mem::transmute::<[u8; CHIP_BYTES], kvm_irqchip__bindgen_ty_1>(bytes) };
            let chip = kvm_irqchip { chip_id, chip, ..Default::default() };
            self.fd.set_irqchip(&chip).map_err(call("KVM_SET_IRQCHIP"))?;
        }
        let clock = kvm_clock_data { clock: record.clock_ns, ..Default::default() };
        self.fd.set_clock(&clock).map_err(call("KVM_SET_CLOCK"))
    }

    /// What `event` signalled has reached pin `pin` when this returns: KVM ends what is under way before it lets go of it.
    ///
    /// # Errors
    /// [`KvmError`] when KVM refuses.
    pub fn settle_pin(&self, pin: u32, event: &EventFd) -> Result<(), KvmError> {
        self.disconnect_pin(pin, event)?;
        self.connect_pin(pin, event)
    }

    fn routes(&self) -> std::sync::MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The whole table, since KVM replaces it as one: the pins of the I/O APIC and every MSI.
fn routing_table(msi: &BTreeMap<u32, MsiMessage>) -> Result<KvmIrqRouting, KvmError> {
    let pins = (0..IO_APIC_PINS).map(|pin| {
        let mut entry =
            kvm_irq_routing_entry { gsi: pin, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
        entry.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
        entry.u.irqchip.pin = pin;
        entry
    });
    let messages = msi.iter().map(|(&number, message)| {
        let mut entry =
            kvm_irq_routing_entry { gsi: number, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
        entry.u.msi.address_lo = low_half(message.address);
        entry.u.msi.address_hi = low_half(message.address >> 32);
        entry.u.msi.data = message.data;
        entry
    });
    let entries: Vec<_> = pins.chain(messages).collect();
    KvmIrqRouting::from_entries(&entries)
        .map_err(|_| KvmError::Lacks { capability: "room for another interrupt route" })
}
/// The low 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
pub(crate) fn low_half(value: u64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    #[test]
    fn a_refused_route_stands_in_no_later_table() {
        let memory = crate::memory::allocate(64 << 20, crate::memory::Backing::Private).unwrap();
        let vm = Vm::new(&Kvm::new().unwrap(), &memory).unwrap();
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        let connect =
            |number, data| vm.connect_msi(number, MsiMessage { address: 0xfee0_0000, data }, &event);
        // More routes than KVM has room for: nothing but the refused one may suffer from that.
        let refused = (IO_APIC_PINS..10_000)
            .find(|&number| {
                let result = connect(number, 0x30);
                let _ = vm.disconnect_msi(number, &event);
                result.is_err()
            })
            .expect("KVM takes 4096 routes");
        assert!(refused > IO_APIC_PINS);
        connect(IO_APIC_PINS, 0x31).unwrap();
    }
}
