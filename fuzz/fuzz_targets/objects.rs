#![no_main]
//! See `signpost_fuzz::objects`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| signpost_fuzz::objects::run(data));
