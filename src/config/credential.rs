//! `credential:NAME` in the place of a path: a secret that systemd's `LoadCredential=` hands over. The name in -> the file, out.
//!
//! `credential:NAME` is the file `NAME` of `/etc/scanside/secrets`, `credential:FOLDER/NAME` that of another folder of `/etc/scanside`
//! that the unit loads. Under systemd those folders stay root's alone, and the service finds copies in `$CREDENTIALS_DIRECTORY` as
//! `FOLDER_NAME` (systemd.exec(5), directory form). Elsewhere, as for `scanside config check`, the folder itself is read.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::Config;

/// What such a name begins with.
const PREFIX: &str = "credential:";
/// Where the folders lie.
const HOME: &str = "/etc/scanside";
/// The folder of a name without one.
const FOLDER: &str = "secrets";

/// A path of the configuration, or the name of a credential.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if let Some(name) = text.strip_prefix(PREFIX) {
        let (folder, file) = name.split_once('/').unwrap_or((FOLDER, name));
        let plain = |part: &str| {
            (1..=64).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
                && part.starts_with(|c: char| c.is_ascii_alphanumeric())
        };
        return match plain(folder) && plain(file) {
            true => Ok(PathBuf::from(text)),
            false => Err(format!(
                "{text:?} names no credential: write credential:NAME or credential:FOLDER/NAME, letters, digits, - _ ."
            )),
        };
    }
    match text.len() {
        0 => Err("must not be empty".to_owned()),
        1..=4096 if !text.contains('\0') => Ok(PathBuf::from(text)),
        _ => Err("is no path: longer than 4096 bytes, or with a NUL in it".to_owned()),
    }
}

/// The file that `path` means; `credentials_dir` is systemd's, if this process has one.
#[must_use]
pub fn credential_file<'p>(path: &'p Path, credentials_dir: Option<&Path>) -> Cow<'p, Path> {
    let Some(name) = path.to_str().and_then(|text| text.strip_prefix(PREFIX)) else { return Cow::Borrowed(path) };
    let (folder, file) = name.split_once('/').unwrap_or((FOLDER, name));
    Cow::Owned(match credentials_dir {
        Some(dir) => dir.join(format!("{folder}_{file}")),
        None => Path::new(HOME).join(folder).join(file),
    })
}

/// The configuration with files in the place of all names of credentials, `credentials_dir` being systemd's.
#[must_use]
pub fn with_credential_files(mut config: Config, credentials_dir: Option<&Path>) -> Config {
    let mut files = super::alerts::files(&mut config.alerts);
    if let Some(tls) = &mut config.dicom.tls {
        files.extend([&mut tls.certificate_file, &mut tls.key_file]);
        files.extend(&mut tls.client_ca_file);
    }
    if let Some(tls) = &mut config.web.tls {
        files.extend([&mut tls.certificate_file, &mut tls.key_file]);
    }
    files.extend(&mut config.web.claim_code_file);
    for file in files {
        *file = credential_file(file, credentials_dir).into_owned();
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_credential_is_looked_for_where_systemd_puts_it_else_in_its_folder() {
        let of = |text: &str, dir: Option<&str>| credential_file(Path::new(text), dir.map(Path::new)).into_owned();
        let dir = Some("/run/credentials/scanside.service");
        assert_eq!(of("credential:hook", dir), Path::new("/run/credentials/scanside.service/secrets_hook"));
        assert_eq!(of("credential:identity/device.key", dir), Path::new("/run/credentials/scanside.service/identity_device.key"));
        assert_eq!(of("credential:hook", None), Path::new("/etc/scanside/secrets/hook"));
        assert_eq!(of("/etc/scanside/secrets/hook", dir), Path::new("/etc/scanside/secrets/hook"));
    }

    #[test]
    fn every_file_of_the_configuration_may_be_a_credential() {
        let text = "[dicom.tls]\nlisten = \"0.0.0.0:2762\"\ncertificate_file = \"credential:a\"\nkey_file = \"credential:b\"\n\
                    client_ca_file = \"credential:c\"\n[web]\nclaim_code_file = \"credential:d\"\n[web.tls]\n\
                    [[alerts.webhook]]\nurl = \"https://a/\"\nsecret_file = \"credential:e\"\n[[alerts.mqtt]]\naddress = \"b:8883\"\n\
                    topic = \"t\"\nuser = \"u\"\npassword_file = \"credential:f\"\n[alerts.mqtt.tls]\nca_file = \"credential:g\"\n\
                    certificate_file = \"credential:h\"\nkey_file = \"credential:i\"\n";
        let config = Config::parse(text).expect("valid");
        assert_eq!(Config::parse(&config.to_toml()).as_ref(), Ok(&config));
        let resolved = with_credential_files(config, Some(Path::new("/c")));
        assert!(!resolved.to_toml().contains("credential:"), "{}", resolved.to_toml());
    }

    proptest! {
        #[test]
        fn no_name_leaves_its_folder(text in "[a-z./\\\\ 0]{0,12}") {
            if let Ok(path) = path(&format!("credential:{text}")) {
                for dir in [None, Some(Path::new("/c"))] {
                    let file = credential_file(&path, dir).into_owned();
                    prop_assert!(file.components().all(|part| !matches!(part, std::path::Component::ParentDir)));
                    prop_assert!(file.starts_with(dir.unwrap_or(Path::new("/etc/scanside"))) && file.to_str().is_some_and(|f| !f.ends_with('/')));
                }
            }
        }
    }
}
