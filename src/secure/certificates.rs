//! What a certificate says about its time, as pure functions: DER bytes, the box's clock -> valid, ends soon, over, not begun.
//! Source: RFC 5280 section 4.1.2.5 (validity; both ends belong to it).

use x509_parser::prelude::{FromDer, X509Certificate};

use crate::domain::{CertificateSha256, WallTime};

/// So long before its end a certificate is to be replaced, days.
pub(super) const EXPIRING_DAYS: i64 = 30;
const DAY_MS: i64 = 86_400_000;

/// From when to when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: WallTime,
    pub(super) not_after: WallTime,
}

/// How a certificate stands at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Valid,
    /// Valid, and ends within [`EXPIRING_DAYS`]: whole days that are left.
    Ending(i64),
    Over,
    /// It has not begun: most often it is the box's clock that is wrong.
    NotBegun,
}

impl Validity {
    /// How it stands at `now`.
    pub(super) fn judge(&self, now: WallTime) -> Standing {
        if now.0 < self.not_before.0 {
            return Standing::NotBegun;
        }
        // Seconds count in certificates: the last one belongs to it whole.
        let left_ms = self.not_after.0.saturating_add(999).saturating_sub(now.0);
        match left_ms {
            ..0 => Standing::Over,
            left if left < EXPIRING_DAYS * DAY_MS => Standing::Ending(left / DAY_MS),
            _ => Standing::Valid,
        }
    }

    /// Whether it can be used at `now`.
    pub(super) fn holds(&self, now: WallTime) -> bool {
        matches!(self.judge(now), Standing::Valid | Standing::Ending(_))
    }

    /// What is left when both must hold.
    pub(super) fn and(self, other: Self) -> Self {
        Self { not_before: self.not_before.max(other.not_before), not_after: self.not_after.min(other.not_after) }
    }
}

/// When the certificate holds; `None` when it is none.
pub(super) fn validity_of(der: &[u8]) -> Option<Validity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let ms = |seconds: i64| WallTime(seconds.saturating_mul(1000));
    let validity = certificate.validity();
    Some(Validity { not_before: ms(validity.not_before.timestamp()), not_after: ms(validity.not_after.timestamp()) })
}

/// The fingerprint of a certificate: SHA-256 of its DER bytes.
#[must_use]
pub fn fingerprint(der: &[u8]) -> CertificateSha256 {
    use sha2::Digest as _;
    CertificateSha256::new(sha2::Sha256::digest(der).into())
}

/// A day as people write it (ISO 8601), UTC.
pub(super) fn day(at: WallTime) -> String {
    chrono::DateTime::from_timestamp_millis(at.0)
        .map_or_else(|| "an unknown day".to_owned(), |at| at.format("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BEGIN: i64 = 1_700_000_000_000;
    const YEAR: Validity = Validity { not_before: WallTime(BEGIN), not_after: WallTime(BEGIN + 365 * DAY_MS) };

    #[test]
    fn certificate_is_judged_by_the_clock_at_each_of_its_borders() {
        let at = |ms: i64| YEAR.judge(WallTime(BEGIN + ms));
        assert_eq!(at(-1), Standing::NotBegun, "a clock that lost its battery says 1970");
        assert_eq!(YEAR.judge(WallTime(0)), Standing::NotBegun);
        assert_eq!(at(0), Standing::Valid);
        assert_eq!(at(335 * DAY_MS), Standing::Valid, "30 days and the last second are left");
        assert_eq!(at(335 * DAY_MS + 1_000), Standing::Ending(29));
        assert_eq!(at(364 * DAY_MS + 1_000), Standing::Ending(0));
        assert_eq!(at(365 * DAY_MS + 999), Standing::Ending(0), "the last second belongs to it");
        assert_eq!(at(365 * DAY_MS + 1_000), Standing::Over);
        assert_eq!(YEAR.judge(WallTime(i64::MAX)), Standing::Over);
        assert_eq!(YEAR.judge(WallTime(i64::MIN)), Standing::NotBegun);
    }

    #[test]
    fn fields_are_those_of_the_certificate() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec!["box".to_owned()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(2024, 2, 29);
        params.not_after = rcgen::date_time_ymd(2051, 1, 1); // GeneralizedTime from 2050 on (RFC 5280 section 4.1.2.5)
        let certificate = params.self_signed(&key).expect("signed");
        let validity = validity_of(certificate.der()).expect("a certificate");
        assert_eq!((day(validity.not_before), day(validity.not_after)), ("2024-02-29".to_owned(), "2051-01-01".to_owned()));
        assert_eq!(validity_of(&certificate.der()[..20]), None);
    }

    proptest! {
        #[test]
        fn time_only_ever_moves_a_certificate_towards_its_end(a: i64, b: i64) {
            let rank = |at| match YEAR.judge(WallTime(at)) {
                Standing::NotBegun => 0,
                Standing::Valid => 1,
                Standing::Ending(left) => 100 - left,
                Standing::Over => 1000,
            };
            prop_assert!(rank(a.min(b)) <= rank(a.max(b)));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = validity_of(&bytes);
        }
    }
}
