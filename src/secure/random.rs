//! Random bytes for keys, codes and sessions, from the system's generator (getrandom(2), by way of ring).

/// The system's generator gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system's random generator gave nothing")]
pub struct RandomError;

/// `N` random bytes.
///
/// # Errors
/// [`RandomError`] when the system has none to give.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], RandomError> {
    let mut bytes = [0; N];
    super::tls::provider().secure_random.fill(&mut bytes).map_err(|_| RandomError)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::random_bytes;

    #[test]
    fn two_draws_differ_and_are_not_zero() {
        let (a, b) = (random_bytes::<16>().expect("bytes"), random_bytes::<16>().expect("bytes"));
        assert!(a != b && a != [0; 16]);
    }
}
