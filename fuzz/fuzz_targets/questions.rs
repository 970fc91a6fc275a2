#![no_main]
//! See `signpost_fuzz::questions`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| signpost_fuzz::questions::run(data));
