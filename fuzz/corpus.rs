//! The committed corpus as a regression test on stable Rust: a target's name in -> every file of its folder through the target.

use std::path::Path;

/// Runs `target` over `fuzz/corpus/NAME`; a panic names the file.
pub(super) fn run(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).expect("the corpus is there").flatten().map(|entry| entry.path()).collect();
    files.sort();
    assert!(files.len() >= 6, "{} holds too few files", folder.display());
    for file in files {
        let bytes = std::fs::read(&file).expect("a readable file");
        let outcome = std::panic::catch_unwind(|| target(&bytes));
        assert!(outcome.is_ok(), "{} breaks a promise of {name}", file.display());
    }
}
