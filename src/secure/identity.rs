//! The box's own identity: a folder in -> `device.key`, `device.crt` and `claim-code` in it, made once.
//!
//! | File | Mode | Holds |
//! | --- | --- | --- |
//! | `device.key` | 0600 | ECDSA P-256 key (PKCS #8, PEM) |
//! | `device.crt` | 0644 | self-signed certificate of that key (X.509 v3, PEM), for servers and clients |
//! | `claim-code` | 0600 | the code by which the page of a box without users is opened |
//!
//! Each file appears whole or not at all: written under another name, synced, renamed, and the folder synced. What a power cut left out
//! between two of them the next run makes up: a key without its certificate gets one, a certificate of another key is replaced. Files
//! that are there and fit stay as they are. A file that holds something else is put aside as `NAME.unusable`, never deleted.
//!
//! The certificate holds from 2024 on, so that a box whose clock lost its battery can still serve, and until the end of the tenth year
//! after it was made: the service life of a box; 30 days before, the box says that it ends. Its serial number is random (RFC 5280 section
//! 4.1.2.2: positive, at most 20 octets). Names: the host name, `HOST.local`, `localhost` and the loopback addresses. The addresses of
//! the network are not in it: at first boot there are none yet, and DHCP changes them; people compare the fingerprint instead.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData as _, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::claim_code::ClaimCode;
use super::{RandomError, fingerprint, random_bytes};
use crate::domain::{CertificateSha256, WallTime};

/// File of the key.
pub const KEY_FILE: &str = "device.key";
/// File of the certificate.
pub const CERTIFICATE_FILE: &str = "device.crt";
/// File of the claim code.
pub const CLAIM_CODE_FILE: &str = "claim-code";

/// The files have less than 1 KiB each; a longer one is none of ours.
const FILE_BYTES_MAX: u64 = 16 * 1024;
/// First day of the certificate.
const NOT_BEFORE: (i32, u8, u8) = (2024, 1, 1);
/// Whole years after the year in which it was made.
const YEARS: i32 = 10;

/// A box's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Fingerprint of the certificate.
    pub certificate_sha256: CertificateSha256,
    /// The claim code.
    pub claim_code: ClaimCode,
    /// Files that this run made.
    pub made: Vec<&'static str>,
    /// Files that were put aside because they could not be used.
    pub put_aside: Vec<&'static str>,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// a file cannot be read or written
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// the system has no random bytes
    #[error(transparent)]
    Random(#[from] RandomError),
    /// the certificate cannot be made
    #[error("the certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// Completes the identity in `dir`, which is made (0700) if it is not there. With `force` everything is made anew.
///
/// # Errors
/// [`IdentityError`] names the file; what was whole before is whole after.
pub fn ensure(dir: &Path, force: bool, host_name: &str, now: WallTime) -> Result<Identity, IdentityError> {
    let file_error = |path: &Path| {
        let path = path.to_owned();
        move |source| IdentityError::File { path, source }
    };
    if !dir.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(file_error(dir))?;
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(file_error(parent))?;
    }
    let _lock = lock(dir).map_err(file_error(dir))?;
    let folder = Folder { dir, force };
    let (mut made, mut put_aside) = (Vec::new(), Vec::new());

    let key = match folder.kept(KEY_FILE, &mut put_aside, |text| KeyPair::from_pem(text).ok())? {
        Some(key) => key,
        None => {
            let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
            folder.write(KEY_FILE, 0o600, &key.serialize_pem(), &mut made)?;
            key
        }
    };
    let certificate = match folder.kept(CERTIFICATE_FILE, &mut put_aside, certificate_of)? {
        // One of another key is what a power cut between the two files leaves; nothing is lost with it.
        Some(certificate) if is_of_key(&certificate, &key) => certificate,
        _ => {
            let certificate = params(host_name, now)?.self_signed(&key)?;
            folder.write(CERTIFICATE_FILE, 0o644, &certificate.pem(), &mut made)?;
            certificate.der().clone()
        }
    };
    let claim_code = match folder.kept(CLAIM_CODE_FILE, &mut put_aside, ClaimCode::parse)? {
        Some(code) => code,
        None => {
            let code = ClaimCode::of(random_bytes()?);
            folder.write(CLAIM_CODE_FILE, 0o600, &format!("{code}\n"), &mut made)?;
            code
        }
    };
    Ok(Identity { certificate_sha256: fingerprint(&certificate), claim_code, made, put_aside })
}

/// Two runs at once would mix their files. The lock ends with the file's handle.
fn lock(dir: &Path) -> io::Result<File> {
    let dir = File::open(dir)?;
    rustix::fs::flock(&dir, rustix::fs::FlockOperation::LockExclusive)?;
    Ok(dir)
}

struct Folder<'d> {
    dir: &'d Path,
    force: bool,
}

impl Folder<'_> {
    /// What the file holds, if it is to stay; a file that holds something else is put aside.
    fn kept<T>(
        &self,
        name: &'static str,
        put_aside: &mut Vec<&'static str>,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, IdentityError> {
        if self.force {
            return Ok(None);
        }
        let path = self.dir.join(name);
        let error = |source| IdentityError::File { path: path.clone(), source };
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(file) => file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(error)?,
            Err(source) if source.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(error(source)),
        };
        let held = std::str::from_utf8(&bytes).ok().and_then(&read);
        if held.is_none() {
            std::fs::rename(&path, self.dir.join(format!("{name}.unusable"))).map_err(error)?;
            put_aside.push(name);
        }
        Ok(held)
    }

    fn write(&self, name: &'static str, mode: u32, text: &str, made: &mut Vec<&'static str>) -> Result<(), IdentityError> {
        let (path, unfinished) = (self.dir.join(name), self.dir.join(format!(".{name}.new")));
        let write = || -> io::Result<()> {
            // What a power cut left of an earlier run; its mode may be another.
            match std::fs::remove_file(&unfinished) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&unfinished)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&unfinished, &path)?;
            File::open(self.dir)?.sync_all()
        };
        write().map_err(|source| IdentityError::File { path: path.clone(), source })?;
        made.push(name);
        Ok(())
    }
}

fn certificate_of(text: &str) -> Option<CertificateDer<'static>> {
    let certificate = CertificateDer::from_pem_slice(text.as_bytes()).ok()?;
    X509Certificate::from_der(&certificate).is_ok().then_some(certificate)
}

fn is_of_key(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, certificate)| certificate.public_key().raw == key.subject_public_key_info().as_slice())
}

fn params(host_name: &str, now: WallTime) -> Result<CertificateParams, IdentityError> {
    let mut serial: [u8; 16] = random_bytes()?;
    serial[0] = serial[0] & 0x7f | 0x40; // positive, and without a leading zero
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if is_host_name(host_name) && host_name != "localhost" {
        names.insert(0, host_name.to_owned());
        if !host_name.contains('.') {
            names.insert(1, format!("{host_name}.local"));
        }
    }
    let mut params = CertificateParams::new(names)?;
    let short: String = serial.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("scanside {short}"));
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = rcgen::date_time_ymd(NOT_BEFORE.0, NOT_BEFORE.1, NOT_BEFORE.2);
    params.not_after = rcgen::date_time_ymd(year(now).max(NOT_BEFORE.0) + YEARS + 1, 1, 1);
    Ok(params)
}

fn year(now: WallTime) -> i32 {
    use chrono::Datelike as _;
    chrono::DateTime::from_timestamp_millis(now.0).map_or(NOT_BEFORE.0, |at| at.year().min(9000))
}

/// RFC 1123 section 2.1: letters, digits and dashes between dots.
fn is_host_name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const NOW: WallTime = WallTime(1_790_000_000_000); // 2026

    fn run(dir: &Path, force: bool) -> Identity {
        ensure(dir, force, "scanside-7", NOW).expect("made")
    }

    fn texts(dir: &Path) -> Vec<String> {
        [KEY_FILE, CERTIFICATE_FILE, CLAIM_CODE_FILE].map(|name| std::fs::read_to_string(dir.join(name)).expect(name)).to_vec()
    }

    #[test]
    fn an_identity_is_made_once_and_a_second_run_changes_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let dir = folder.path().join("identity");
        let first = run(&dir, false);
        let held = texts(&dir);
        assert_eq!(first.made, [KEY_FILE, CERTIFICATE_FILE, CLAIM_CODE_FILE]);
        let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        assert_eq!([KEY_FILE, CERTIFICATE_FILE, CLAIM_CODE_FILE].map(|name| mode(&dir.join(name))), [0o600, 0o644, 0o600]);
        let second = run(&dir, false);
        assert_eq!((second.made.len(), texts(&dir)), (0, held.clone()));
        assert_eq!((second.certificate_sha256, &second.claim_code), (first.certificate_sha256, &first.claim_code));
        assert_eq!(std::fs::read_dir(&dir).expect("dir").count(), 3, "nothing is left over");
        let third = run(&dir, true);
        assert!(texts(&dir).iter().zip(&held).all(|(new, old)| new != old), "force makes all anew");
        assert_ne!(third.claim_code, first.claim_code);
    }

    #[test]
    fn what_a_power_cut_left_out_is_made_up_and_what_is_whole_stays() {
        let folder = tempfile::tempdir().expect("folder");
        let dir = folder.path();
        run(dir, false);
        let whole = texts(dir);
        for missing in [CERTIFICATE_FILE, CLAIM_CODE_FILE] {
            std::fs::remove_file(dir.join(missing)).expect("removed");
            std::fs::write(dir.join(format!(".{missing}.new")), "half a fi").expect("written");
            assert_eq!(run(dir, false).made, [missing]);
        }
        assert_eq!(texts(dir)[0], whole[0], "the key stays");
        // A new key whose certificate was not written yet.
        let other = tempfile::tempdir().expect("folder");
        run(other.path(), false);
        std::fs::copy(other.path().join(KEY_FILE), dir.join(KEY_FILE)).expect("copied");
        assert_eq!(run(dir, false).made, [CERTIFICATE_FILE]);
        assert_eq!(run(dir, false).made.len(), 0);
    }

    #[test]
    fn a_file_that_holds_something_else_is_put_aside_not_lost() {
        let folder = tempfile::tempdir().expect("folder");
        let dir = folder.path();
        run(dir, false);
        std::fs::write(dir.join(KEY_FILE), "\0\0\0\0").expect("written");
        let healed = run(dir, false);
        assert_eq!((healed.put_aside, healed.made), (vec![KEY_FILE], vec![KEY_FILE, CERTIFICATE_FILE]));
        assert_eq!(std::fs::read_to_string(dir.join("device.key.unusable")).expect("kept"), "\0\0\0\0");
    }

    #[test]
    fn the_certificate_is_of_this_box_for_ten_years_and_differs_between_boxes() {
        let folder = tempfile::tempdir().expect("folder");
        let read = |name: &str| {
            let dir = folder.path().join(name);
            run(&dir, false);
            certificate_of(&std::fs::read_to_string(dir.join(CERTIFICATE_FILE)).expect("text")).expect("a certificate")
        };
        let (one, two) = (read("one"), read("two"));
        let (_, a) = X509Certificate::from_der(&one).expect("read");
        let (_, b) = X509Certificate::from_der(&two).expect("read");
        assert!(a.raw_serial() != b.raw_serial() && a.raw_serial().len() == 16 && a.raw_serial()[0] < 0x80);
        assert_ne!(a.subject().to_string(), b.subject().to_string());
        assert_eq!(a.subject(), a.issuer());
        let validity = super::super::certificates::validity_of(&one).expect("dates");
        let day = super::super::certificates::day;
        assert_eq!((day(validity.not_before), day(validity.not_after)), ("2024-01-01".to_owned(), "2037-01-01".to_owned()));
        let names = format!("{:?}", a.subject_alternative_name().expect("read").expect("there").value.general_names);
        for name in ["scanside-7", "scanside-7.local", "localhost"] {
            assert!(names.contains(&format!("DNSName(\"{name}\")")), "{names}");
        }
    }

    #[test]
    fn a_host_name_that_is_none_and_a_clock_without_a_battery_do_not_stop_it() {
        for (name, now) in [("(none)", WallTime(0)), ("", WallTime(i64::MAX)), ("bad_name", WallTime(-1)), ("localhost", NOW)] {
            let folder = tempfile::tempdir().expect("folder");
            let identity = ensure(folder.path(), false, name, now).expect("made");
            assert_eq!(identity.made.len(), 3);
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join("file"), "").expect("written");
        let error = ensure(&folder.path().join("file/identity"), false, "box", NOW).expect_err("no folder").to_string();
        assert!(error.contains("file/identity"), "{error}");
    }
}
