#![no_main]
//! See `signpost_fuzz::packets`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| signpost_fuzz::packets::run(data));
