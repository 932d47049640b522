#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::suspend_state::run(data));
