//! Secure: certificates and their keys. Files of the configuration in -> what serves the next TLS handshake, and how it stands, out; a
//! folder in -> the box's own identity in it, made once.
//!
//! | File | In -> out |
//! | --- | --- |
//! | `tls_files.rs` | paths -> certificates and keys, or what is wrong with a file |
//! | `tls.rs` | certificate files, the clock -> a configuration for rustls, taken up anew when the files change |
//! | `certificates.rs` (pure) | a certificate, the clock -> valid, ends soon, over; its fingerprint |
//! | `client_verifier.rs` | a client's certificate -> taken or refused |
//! | `identity.rs` | a folder -> `device.key`, `device.crt`, `claim-code` |
//! | `claim_code.rs` (pure) | random bytes -> a code that people can read and type; what they typed -> the code |
//! | `random.rs` | the system's generator |
//! | `events.rs` | what is told to the journal |

mod certificates;
pub mod claim_code;
mod client_verifier;
mod events;
pub mod identity;
mod random;
mod tls;
mod tls_files;

pub use certificates::fingerprint;
pub use random::{RandomError, random_bytes};
pub use tls::{TlsKeeper, TlsStanding, cipher_suites};
pub use tls_files::{TlsError, TlsFiles};
