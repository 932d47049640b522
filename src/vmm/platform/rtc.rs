//! The MC146818 clock at ports 0x70 and 0x71: the host's time in UTC, which nobody can set or stop.
//!
//! It has no interrupts: a guest that wants timers has the local APIC's. Absent, it would cost a guest seconds: a
//! kernel that reads 0xff from register A sees an update that never ends.

use std::time::{SystemTime, UNIX_EPOCH};

/// Registers; what is above D is battery-backed memory.
mod register {
    pub(super) const SECONDS: u8 = 0x00;
    pub(super) const MINUTES: u8 = 0x02;
    pub(super) const HOURS: u8 = 0x04;
    pub(super) const WEEKDAY: u8 = 0x06;
    pub(super) const DAY: u8 = 0x07;
    pub(super) const MONTH: u8 = 0x08;
    pub(super) const YEAR: u8 = 0x09;
    pub(super) const A: u8 = 0x0a;
    pub(super) const B: u8 = 0x0b;
    pub(super) const C: u8 = 0x0c;
    pub(super) const D: u8 = 0x0d;
    /// Where the FADT says that the century stands.
    pub(super) const CENTURY: u8 = super::CENTURY_REGISTER;
}

/// The century's place in the memory, as the FADT tells.
pub const CENTURY_REGISTER: u8 = 0x32;
/// Register A: the usual divider, no update in progress.
const A_VALUE: u8 = 0x26;
/// Register B: 24 hours a day, numbers as BCD.
const B_VALUE: u8 = 0x02;
/// Register D: the battery is good.
const D_VALUE: u8 = 0x80;
/// Bit 7 of the index port masks NMIs; there are none.
const INDEX_MASK: u8 = 0x7f;

/// The clock and its index register.
#[derive(Debug, Default)]
pub struct Rtc {
    index: u8,
}

impl Rtc {
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        data.fill(if offset == 0 { self.index } else { self.register(since_epoch.as_secs()) });
    }

    pub fn write(&mut self, offset: u16, data: &[u8]) {
        if let (0, [index, ..]) = (offset, data) {
            self.index = index & INDEX_MASK;
        }
    }

    /// The selected register at `unix` seconds.
    fn register(&self, unix: u64) -> u8 {
        let (days, second) = (unix / 86_400, unix % 86_400);
        let (year, month, day) = civil_date(days);
        match self.index {
            register::SECONDS => bcd(second % 60),
            register::MINUTES => bcd(second / 60 % 60),
            register::HOURS => bcd(second / 3600),
            // 1970 began on a Thursday; Sunday is 1.
            register::WEEKDAY => bcd((days + 4) % 7 + 1),
            register::DAY => bcd(day),
            register::MONTH => bcd(month),
            register::YEAR => bcd(year % 100),
            register::CENTURY => bcd(year / 100 % 100),
            register::A => A_VALUE,
            register::B => B_VALUE,
            register::C => 0,
            register::D => D_VALUE,
            _ => 0,
        }
    }
}

/// `value` below 100 in two decimal digits.
fn bcd(value: u64) -> u8 {
    u8::try_from(value / 10 * 16 + value % 10).unwrap_or(0)
}

/// Year, month and day of the day that is `days` after 1970-01-01, by counting in eras of 400 years that begin on
/// March 1st, so that the leap day is the last of its year.
fn civil_date(days: u64) -> (u64, u64, u64) {
    const DAYS_BEFORE_1970: u64 = 719_468;
    const DAYS_PER_ERA: u64 = 146_097;
    let shifted = days + DAYS_BEFORE_1970;
    let (era, day_of_era) = (shifted / DAYS_PER_ERA, shifted % DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(unix: u64, index: u8) -> u8 {
        Rtc { index }.register(unix)
    }

    #[test]
    fn a_known_moment_reads_as_its_digits() {
        // 2024-02-29 23:59:58 UTC, a Thursday.
        let unix = 1_709_251_198;
        let digits: Vec<u8> =
            [0x32, 0x09, 0x08, 0x07, 0x04, 0x02, 0x00, 0x06].map(|i| read(unix, i)).to_vec();
        assert_eq!(digits, [0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x58, 0x05]);
    }

    #[test]
    fn the_day_after_a_leap_day_is_the_first_of_march() {
        assert_eq!(civil_date(1_709_251_200 / 86_400), (2024, 3, 1));
        assert_eq!(civil_date(0), (1970, 1, 1));
        assert_eq!(civil_date(4_102_444_800 / 86_400), (2100, 1, 1));
    }

    #[test]
    fn no_update_is_ever_in_progress_and_the_index_reads_back() {
        let mut rtc = Rtc::default();
        rtc.write(0, &[0x8a]);
        let mut data = [0xff];
        rtc.read(0, &mut data);
        assert_eq!(data, [0x0a]);
        rtc.read(1, &mut data);
        assert_eq!(data[0] & 0x80, 0, "register A must not say that an update goes on");
    }
}
