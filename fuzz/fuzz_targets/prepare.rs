//! libFuzzer's entry to `prepare`'s target: bytes in -> a crash where a promise is broken.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| scanside_fuzz::prepare::fuzz_targets::prepare(data));
