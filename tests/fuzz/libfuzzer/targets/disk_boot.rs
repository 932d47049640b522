#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::disk_boot::run(data));
