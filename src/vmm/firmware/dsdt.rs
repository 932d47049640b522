//! The DSDT: what is at fixed addresses, the PCI bus, and the methods behind power button and hot-plug.
//!
//! ```text
//! \_SB_  PCI0  the bus, its windows; S001 to S031 its slots, each with _EJ0; DVNT notifies the slots of a map
//!        PHPR  the hot-plug registers, PCIU inserted, PCID removing, PCEJ eject
//!        MBRD  what ECAM and the registers occupy
//!        COM1, RTC0, PWRB, VGEN
//!        GEDV  turns our two interrupts into notifications
//! \_S5_  the sleep type that powers off
//! ```

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, Device, EISAName, Equal, Field, FieldAccessType,
    FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, Interrupt, Memory32Fixed, Method, MethodCall, Name,
    Notify, ONE, OpRegion, OpRegionSpace, Package, Path, ResourceTemplate, Scope, ShiftLeft, ZERO,
};
use acpi_tables::sdt::Sdt;

use super::acpi::{OEM, OEM_REVISION, OEM_TABLE};
use crate::kvm::low_half;
use crate::memory::{ECAM_BYTES, ECAM_START, PCI_WINDOW_END, PCI_WINDOW_START};
use crate::pci::{PORT_WINDOW, SLOT_COUNT, hotplug};
use crate::platform::{
    HOTPLUG_INTERRUPT, HOTPLUG_PORT, POWER_BUTTON_INTERRUPT, RTC_PORT, SERIAL_INTERRUPT, SERIAL_PORT,
    SLEEP_CONTROL_PORT, SLEEP_TYPE_OFF,
};

/// Notification values (ACPI 6.5, 5.6.6).
const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;
const BUTTON_PRESSED: u8 = 0x80;
/// `_STA`: present, enabled, shown, working.
const WORKING: u8 = 0xf;
const REVISION: u8 = 6;

/// The whole table.
pub(super) fn table(cpus: u8, generation_id: u64) -> Vec<u8> {
    let mut sdt = Sdt::new(*b"DSDT", 36, REVISION, OEM, OEM_TABLE, OEM_REVISION);
    let mut system_bus = Vec::new();
    for device in [
        pci_bus(),
        hotplug_registers(),
        board(),
        serial_port(),
        rtc(),
        power_button(),
        generation(generation_id),
        event_device(),
    ] {
        system_bus.extend(device);
    }
    (0..cpus).for_each(|id| system_bus.extend(processor(id)));
    sdt.append_slice(&Scope::raw(Path::new("_SB_"), system_bus));
    sdt.append_slice(&Scope::raw(Path::new("_SB_.PCI0"), slots()));
    let off = Package::new(vec![&SLEEP_TYPE_OFF]);
    sdt.append_slice(&bytes_of(&Name::new(Path::new("_S5_"), &off)));
    sdt.as_slice().to_vec()
}

fn bytes_of(object: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    object.to_aml_bytes(&mut bytes);
    bytes
}

fn named(name: &str, value: &dyn Aml) -> Name {
    Name::new(Path::new(name), value)
}

fn device(name: &str, children: Vec<&dyn Aml>) -> Vec<u8> {
    bytes_of(&Device::new(Path::new(name), children))
}

fn port(first: u16, count: u8) -> IO {
    IO::new(first, first, 1, count)
}

fn edge(number: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, number)
}

fn pci_bus() -> Vec<u8> {
    let (window, window_last) = (low_half(PCI_WINDOW_START), low_half(PCI_WINDOW_END - 1));
    device(
        "PCI0",
        vec![
            &named("_HID", &EISAName::new("PNP0A08")),
            &named("_CID", &EISAName::new("PNP0A03")),
            &named("_UID", &ZERO),
            &named("_SEG", &ZERO),
            &named("_BBN", &ZERO),
            // DMA is coherent.
            &named("_CCA", &ONE),
            &named(
                "_CRS",
                &ResourceTemplate::new(vec![
                    &AddressSpace::new_bus_number(0u16, 0u16),
                    &port(0xcf8, 8),
                    &AddressSpace::new_io(PORT_WINDOW.start, PORT_WINDOW.end - 1, None),
                    &AddressSpace::new_memory(
                        AddressSpaceCacheable::NotCacheable,
                        true,
                        window,
                        window_last,
                        None,
                    ),
                ]),
            ),
        ],
    )
}

/// The slots, and the method that notifies those of a map.
fn slots() -> Vec<u8> {
    let mut all = Vec::new();
    for number in 1..SLOT_COUNT {
        let eject = MethodCall::new(Path::new("\\_SB_.PHPR.EJCT"), vec![&number]);
        all.extend(device(
            &format!("S{number:03}"),
            vec![
                &named("_ADR", &(u32::from(number) << 16)),
                &named("_SUN", &number),
                &Method::new(Path::new("_EJ0"), 1, false, vec![&eject]),
            ],
        ));
    }
    let mut body = Vec::new();
    for number in 1..SLOT_COUNT {
        let slot = Path::new(&format!("S{number:03}"));
        let bit = 1u32 << number;
        let selected = And::new(&ZERO, &Arg(0), &bit);
        body.extend(bytes_of(&If::new(&selected, vec![&Notify::new(&slot, &Arg(1))])));
    }
    all.extend(bytes_of(&Method::new(Path::new("DVNT"), 2, true, vec![&Raw(body)])));
    all
}

/// AML that is encoded already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

fn hotplug_registers() -> Vec<u8> {
    let fields = [*b"PCIU", *b"PCID", *b"PCEJ"].map(|name| FieldEntry::Named(name, 32)).to_vec();
    let (access, lock, update) =
        (FieldAccessType::DWord, FieldLockRule::NoLock, FieldUpdateRule::WriteAsZeroes);
    let notify = |map: &str, value: u8| {
        bytes_of(&MethodCall::new(Path::new("\\_SB_.PCI0.DVNT"), vec![&Path::new(map), &value]))
    };
    let (added, removing) = (notify("PCIU", DEVICE_CHECK), notify("PCID", EJECT_REQUEST));
    let register = Path::new("PCEJ");
    let slot_bit = ShiftLeft::new(&register, &ONE, &Arg(0));
    device(
        "PHPR",
        vec![
            &named("_HID", &EISAName::new("PNP0A06")),
            &named("_UID", &"hotplug"),
            &named("_STA", &WORKING),
            &named(
                "_CRS",
                &ResourceTemplate::new(vec![&port(HOTPLUG_PORT, hotplug::PORTS.to_le_bytes()[0])]),
            ),
            &OpRegion::new(Path::new("HPRG"), OpRegionSpace::SystemIO, &HOTPLUG_PORT, &hotplug::PORTS),
            &Field::new(Path::new("HPRG"), access, lock, update, fields),
            &Method::new(Path::new("EJCT"), 1, true, vec![&slot_bit]),
            &Method::new(Path::new("SCAN"), 0, true, vec![&Raw(added), &Raw(removing)]),
        ],
    )
}

fn board() -> Vec<u8> {
    let ecam_bytes = low_half(ECAM_BYTES);
    device(
        "MBRD",
        vec![
            &named("_HID", &EISAName::new("PNP0C02")),
            &named("_UID", &ZERO),
            &named(
                "_CRS",
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, low_half(ECAM_START), ecam_bytes),
                    &port(SLEEP_CONTROL_PORT, 3),
                ]),
            ),
        ],
    )
}

fn serial_port() -> Vec<u8> {
    device(
        "COM1",
        vec![
            &named("_HID", &EISAName::new("PNP0501")),
            &named("_UID", &ZERO),
            &named("_DDN", &"COM1"),
            &named("_CRS", &ResourceTemplate::new(vec![&edge(SERIAL_INTERRUPT), &port(SERIAL_PORT, 8)])),
        ],
    )
}

fn rtc() -> Vec<u8> {
    device(
        "RTC0",
        vec![
            &named("_HID", &EISAName::new("PNP0B00")),
            &named("_CRS", &ResourceTemplate::new(vec![&port(RTC_PORT, 2)])),
        ],
    )
}

fn power_button() -> Vec<u8> {
    device("PWRB", vec![&named("_HID", &EISAName::new("PNP0C0C")), &named("_UID", &ZERO)])
}

/// The VM generation id (Microsoft's "Virtual Machine Generation ID" paper): `ADDR` gives its address in two halves.
fn generation(address: u64) -> Vec<u8> {
    let (low, high) = (low_half(address), low_half(address >> 32));
    device(
        "VGEN",
        vec![
            &named("_HID", &"NIMB0001"),
            &named("_CID", &"VM_Gen_Counter"),
            &named("_DDN", &"VM_Gen_Counter"),
            &named("ADDR", &Package::new(vec![&low, &high])),
        ],
    )
}

/// The Generic Event Device (ACPI 6.5, 5.6.9): `_EVT` is called with the number of the interrupt.
fn event_device() -> Vec<u8> {
    let (button, hotplug) = (POWER_BUTTON_INTERRUPT.to_le_bytes()[0], HOTPLUG_INTERRUPT.to_le_bytes()[0]);
    let power_button = Path::new("PWRB");
    let press = Notify::new(&power_button, &BUTTON_PRESSED);
    let scan = MethodCall::new(Path::new("\\_SB_.PHPR.SCAN"), vec![]);
    device(
        "GEDV",
        vec![
            &named("_HID", &"ACPI0013"),
            &named("_UID", &ZERO),
            &named(
                "_CRS",
                &ResourceTemplate::new(vec![&edge(POWER_BUTTON_INTERRUPT), &edge(HOTPLUG_INTERRUPT)]),
            ),
            &Method::new(
                Path::new("_EVT"),
                1,
                true,
                vec![
                    &If::new(&Equal::new(&Arg(0), &button), vec![&press]),
                    &If::new(&Equal::new(&Arg(0), &hotplug), vec![&scan]),
                ],
            ),
        ],
    )
}

fn processor(id: u8) -> Vec<u8> {
    device(&format!("C{id:03}"), vec![&named("_HID", &"ACPI0007"), &named("_UID", &id)])
}
