#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::http2_fields::run(data));
