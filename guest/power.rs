//! The power button: an input device that says `KEY_POWER` (linux/input-event-codes.h). The kernel's modules
//! `button` and `evdev` make it.
//!
//! ```text
//! struct input_event:  0 time, 16 bytes   16 type, u16   18 code, u16   20 value, i32
//! ```

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
const EVENT_LENGTH: usize = 24;

/// The open devices that have a power key.
#[derive(Default)]
pub struct Buttons(Vec<Button>);

struct Button {
    path: PathBuf,
    file: File,
}

impl Buttons {
    /// Opens those that have come since the last time.
    pub fn refresh(&mut self) {
        let Ok(entries) = fs::read_dir("/sys/class/input") else { return };
        for entry in entries.flatten() {
            let path = PathBuf::from("/dev/input").join(entry.file_name());
            let keys = fs::read_to_string(entry.path().join("device/capabilities/key")).unwrap_or_default();
            if !has_key(&keys, KEY_POWER) || self.0.iter().any(|button| button.path == path) {
                continue;
            }
            // Nodes that are not of evdev, or are gone again, do not open and are no loss.
            if let Ok(file) = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path) {
                self.0.push(Button { path, file });
            }
        }
    }

    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|button| button.file.as_fd())
    }

    /// Reads what waits; forgets devices that were unplugged.
    pub fn pressed(&mut self) -> bool {
        let mut pressed = false;
        self.0.retain_mut(|button| {
            let mut events = [0; EVENT_LENGTH * 16];
            match button.file.read(&mut events) {
                Ok(length) => {
                    pressed |= events[..length].chunks_exact(EVENT_LENGTH).any(is_press);
                    true
                }
                Err(error) => error.raw_os_error() != Some(libc::ENODEV),
            }
        });
        pressed
    }
}

fn is_press(event: &[u8]) -> bool {
    event[16..18] == EV_KEY.to_ne_bytes()
        && event[18..20] == KEY_POWER.to_ne_bytes()
        && event[20..24] == 1i32.to_ne_bytes()
}

/// Reads the kernel's bitmap: words of 64 bits in hexadecimal, the highest first.
fn has_key(bitmap: &str, key: u16) -> bool {
    let word = bitmap.split_whitespace().rev().nth(usize::from(key / 64));
    word.and_then(|word| u64::from_str_radix(word, 16).ok()).is_some_and(|word| word >> (key % 64) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_key_in_the_bitmap() {
        assert!(has_key("10000000000000 0\n", KEY_POWER));
        assert!(!has_key("10000000000000\n", KEY_POWER));
        assert!(!has_key("", KEY_POWER));
    }

    #[test]
    fn knows_a_press_from_a_release() {
        let mut event = [0; EVENT_LENGTH];
        event[16] = 1;
        event[18] = 116;
        assert!(!is_press(&event));
        event[20] = 1;
        assert!(is_press(&event));
    }
}
