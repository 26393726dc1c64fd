//! Which board a box has: the text of its configuration file in -> the names in its `[board]` section, even where the rest is broken.
//!
//! The lamp keeper must light a fault when the configuration is no longer valid, so it reads these two keys alone and asks nothing of the
//! others: first as TOML, and where the file is no TOML any more, line by line.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Most that is read of the file, bytes: what the service reads, too.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// The keys of `[board]` that say which board it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct BoardNames {
    /// `profile`.
    pub profile: Option<String>,
    /// `profiles_dir`.
    pub profiles_dir: Option<PathBuf>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    board: BoardNames,
}

impl BoardNames {
    /// Reads the file.
    ///
    /// # Errors
    /// The system's; or that the file is broken where it would say which board this is: another board's lamps must not be taken for it.
    pub fn load(path: &Path) -> std::io::Result<Self> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        let broken =
            || std::io::Error::new(std::io::ErrorKind::InvalidData, "it is broken, and no profile can be made out in [board]");
        Self::of(&String::from_utf8_lossy(&bytes)).ok_or_else(broken)
    }

    /// The names in a configuration's text; none where it is broken and they cannot be made out.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        match toml::from_str::<File>(text) {
            Ok(file) => Some(file.board),
            Err(_) => Some(Self::by_line(text)).filter(|names| names.profile.is_some()),
        }
    }

    /// Lines `key = "value"` between a line `[board]` and the next section.
    fn by_line(text: &str) -> Self {
        let mut names = Self::default();
        let mut inside = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                inside = line.split('#').next().is_some_and(|head| head.trim() == "[board]");
            }
            let Some((key, value)) = line.split_once('=').filter(|_| inside) else { continue };
            let quoted =
                |quote: char| value.trim().strip_prefix(quote).and_then(|rest| rest.split_once(quote)).map(|(text, _)| text);
            let Some(value) = quoted('"').or_else(|| quoted('\'')) else { continue };
            match key.trim() {
                "profile" => names.profile = Some(value.to_owned()),
                "profiles_dir" => names.profiles_dir = Some(PathBuf::from(value)),
                _ => {}
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "[dicom]\nae_title = \"A\"\n[board] # the box\nprofile = \"rpi4\"\nprofiles_dir = '/etc/scanside/board'\n[web]\nprofile = 1\n";

    fn rpi4() -> BoardNames {
        BoardNames { profile: Some("rpi4".to_owned()), profiles_dir: Some("/etc/scanside/board".into()) }
    }

    #[test]
    fn a_broken_configuration_still_says_which_board_it_is() {
        assert_eq!(BoardNames::of(GOOD), Some(rpi4()));
        for broken in [
            GOOD.replace("[dicom]", "[dicom"),
            GOOD.replace("ae_title", "ae title"),
            format!("{GOOD}\u{0}[[["),
            GOOD.replace("profile = 1", "profile = \"other\" = 3"),
        ] {
            assert!(toml::from_str::<File>(&broken).is_err(), "{broken}");
            assert_eq!(BoardNames::of(&broken), Some(rpi4()), "{broken}");
        }
        assert_eq!(BoardNames::of(""), Some(BoardNames::default()), "no file's worth of words is the default board");
    }

    #[test]
    fn a_board_that_cannot_be_made_out_is_not_taken_for_the_simulated_one() {
        for broken in [
            GOOD.replace("[board]", "[board"),
            "[board]\nprofile = 7\n".to_owned(),
            GOOD.replace("profile = \"rpi4\"", "profile = rpi4"),
        ] {
            assert_eq!(BoardNames::of(&broken), None, "{broken}");
        }
    }

    proptest! {
        #[test]
        fn no_cut_or_changed_text_panics(at in 0..GOOD.len(), with in "\\PC{0,5}", text in "\\PC{0,200}") {
            let _ = BoardNames::of(&GOOD[..at]);
            let _ = BoardNames::of(&format!("{}{with}{}", &GOOD[..at], &GOOD[at..]));
            let _ = BoardNames::of(&text);
        }
    }
}
