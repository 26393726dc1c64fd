//! libFuzzer's entry to `config`'s target: bytes in -> a crash where a promise is broken.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| scanside_fuzz::config::fuzz_targets::config(data));
