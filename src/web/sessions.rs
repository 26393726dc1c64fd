//! Who is logged in: digests of tokens, the time -> whether a session holds. Pure; at most 32 at once (the one unused for longest is ended).

use crate::domain::Monotonic;

/// Sessions at once.
const SESSIONS_MAX: usize = 32;
/// A session ends after this long whatever happens, ms: a shift.
pub(super) const SESSION_MS_MAX: u64 = 12 * 3_600_000;
/// A session that nobody uses ends after this long, ms. An open page uses it.
const SESSION_IDLE_MS_MAX: u64 = 3_600_000;

#[derive(Clone, Copy, Debug)]
struct Session {
    /// SHA-256 of the token: who reads this memory has no token.
    key: [u8; 32],
    begun: Monotonic,
    used: Monotonic,
}

/// Who is logged in.
#[derive(Debug, Default)]
pub(super) struct Sessions(Vec<Session>);

impl Sessions {
    /// A session begins.
    pub(super) fn open(&mut self, key: [u8; 32], now: Monotonic) {
        self.end_old(now);
        if self.0.len() >= SESSIONS_MAX {
            let idlest = self.0.iter().enumerate().min_by_key(|(_, session)| session.used.0).map(|(idx, _)| idx);
            if let Some(idx) = idlest {
                self.0.swap_remove(idx);
            }
        }
        self.0.push(Session { key, begun: now, used: now });
    }

    /// Whether there is such a session; it counts as used.
    pub(super) fn holds(&mut self, key: &[u8; 32], now: Monotonic) -> bool {
        self.end_old(now);
        match self.0.iter_mut().find(|session| session.key == *key) {
            Some(session) => {
                session.used = now;
                true
            }
            None => false,
        }
    }

    /// A session ends.
    pub(super) fn close(&mut self, key: &[u8; 32]) {
        self.0.retain(|session| session.key != *key);
    }

    fn end_old(&mut self, now: Monotonic) {
        self.0.retain(|s| now.since_ms(s.begun) < SESSION_MS_MAX && now.since_ms(s.used) < SESSION_IDLE_MS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sessions_end_by_time_by_disuse_and_by_logging_out() {
        let mut sessions = Sessions::default();
        let key = |n: u8| [n; 32];
        sessions.open(key(1), Monotonic(0));
        sessions.open(key(2), Monotonic(0));
        assert!(sessions.holds(&key(1), Monotonic(SESSION_IDLE_MS_MAX - 1)));
        assert!(!sessions.holds(&key(2), Monotonic(SESSION_IDLE_MS_MAX)), "nobody used it");
        let mut now = SESSION_IDLE_MS_MAX - 1;
        while now < SESSION_MS_MAX - SESSION_IDLE_MS_MAX {
            now += SESSION_IDLE_MS_MAX - 1;
            assert!(sessions.holds(&key(1), Monotonic(now)));
        }
        assert!(!sessions.holds(&key(1), Monotonic(SESSION_MS_MAX)), "a shift is over");
        sessions.open(key(3), Monotonic(now));
        sessions.close(&key(3));
        assert!(!sessions.holds(&key(3), Monotonic(now)));
        for n in 0..=u8::try_from(SESSIONS_MAX).expect("few") {
            sessions.open(key(n), Monotonic(now + u64::from(n)));
        }
        assert!(!sessions.holds(&key(0), Monotonic(now + 100)), "the one unused for longest made room");
        assert!(sessions.holds(&key(1), Monotonic(now + 100)));
    }

    proptest! {
        #[test]
        fn sessions_are_bounded_and_the_newest_one_always_holds(keys in prop::collection::vec((any::<u8>(), 0_u64..4_000_000), 1..100)) {
            let (mut sessions, mut now) = (Sessions::default(), Monotonic(0));
            for (key, later_ms) in keys {
                now = Monotonic(now.0 + later_ms);
                sessions.open([key; 32], now);
                prop_assert!(sessions.0.len() <= SESSIONS_MAX && sessions.holds(&[key; 32], now));
            }
        }
    }
}
