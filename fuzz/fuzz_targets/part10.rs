//! libFuzzer's entry to `receive`'s target `part10`: bytes in -> a crash where a promise is broken.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| scanside_fuzz::receive::fuzz_targets::part10(data));
