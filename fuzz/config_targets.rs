//! The fuzz target of the configuration: text in -> a configuration that survives being written and read again, or faults with lines.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used, unreachable_pub)] // a panic is what a target is for; the fuzz crate calls them

use super::Config;

/// Text of a configuration file.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::parse(text) {
        Ok(config) => {
            let written = config.to_toml();
            match Config::parse(&written) {
                Ok(read) => assert_eq!(read, config, "a configuration changes when it is written back:\n{written}"),
                Err(faults) => panic!("a configuration cannot be read back: {faults:?}\n{written}"),
            }
            let _ = (config.notices(), config.addresses());
        }
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a fault");
            let n_lines = text.split('\n').count();
            for fault in &faults {
                assert!((1..=n_lines).contains(&fault.line), "line {} of {n_lines}", fault.line);
                assert!(!fault.message.is_empty());
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::duplicate_mod)] // a helper of three rooms, none of which may import another
#[path = "corpus.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    #[test]
    fn corpus_of_config_keeps_its_promises() {
        super::corpus::run("config", super::config);
    }
}
