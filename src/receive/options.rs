//! What the receiver is told by the configuration: addresses, titles, bounds. Text of networks in -> `PeerNet` out.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use crate::domain::{AeTitle, CertificateSha256};

/// One address, or a network of them, that may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerNet {
    address: IpAddr,
    prefix_bits: u8,
}

impl PeerNet {
    /// A network of `prefix_bits` leading bits; `None` when there are more than the address has.
    #[must_use]
    pub fn try_new(address: IpAddr, prefix_bits: u8) -> Option<Self> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (prefix_bits <= bits).then_some(Self { address, prefix_bits })
    }

    /// Whether `peer` is one of them; an IPv4 address that arrives mapped into IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, peer: IpAddr) -> bool {
        let (own, peer) = (self.address.to_canonical(), peer.to_canonical());
        match (own, peer) {
            (IpAddr::V4(own), IpAddr::V4(peer)) => {
                let shift = 32 - u32::from(self.prefix_bits.min(32));
                own.to_bits().checked_shr(shift) == peer.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(own), IpAddr::V6(peer)) => {
                let shift = 128 - u32::from(self.prefix_bits.min(128));
                own.to_bits().checked_shr(shift) == peer.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

impl From<IpAddr> for PeerNet {
    fn from(address: IpAddr) -> Self {
        Self { address, prefix_bits: if address.is_ipv4() { 32 } else { 128 } }
    }
}

/// a peer is given as an address or a network, such as 10.1.2.3 or 10.1.2.0/24
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a peer is given as an address or a network, such as 10.1.2.3 or 10.1.2.0/24")]
pub struct PeerNetError;

impl FromStr for PeerNet {
    type Err = PeerNetError;

    fn from_str(text: &str) -> Result<Self, PeerNetError> {
        match text.trim().split_once('/') {
            None => text.trim().parse::<IpAddr>().map(Self::from).map_err(|_| PeerNetError),
            Some((address, bits)) => {
                let address = address.parse().map_err(|_| PeerNetError)?;
                Self::try_new(address, bits.parse().map_err(|_| PeerNetError)?).ok_or(PeerNetError)
            }
        }
    }
}

impl fmt::Display for PeerNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

/// One sender that may send: its title, where it comes from, and the certificate that it must show, all together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRule {
    /// Its title.
    pub ae_title: AeTitle,
    /// Where it comes from.
    pub addresses: Vec<PeerNet>,
    /// The certificate that it must show; only TLS can.
    pub certificate_sha256: Option<CertificateSha256>,
}

/// Everything that can be set about receiving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiveOptions {
    /// Address and port of the listener.
    pub listen: SocketAddr,
    /// Our own title.
    pub ae_title: AeTitle,
    /// Whether a peer must call us by our title.
    pub called_ae_title_checked: bool,
    /// Titles that may send; empty for all.
    pub calling_ae_titles_allowed: Vec<AeTitle>,
    /// Addresses that may send; empty for all.
    pub peers_allowed: Vec<PeerNet>,
    /// Senders that may send; empty for all that pass the two lists above.
    pub peer_rules: Vec<PeerRule>,
    /// Open associations in all; a few more are kept free for those that only propose C-ECHO. At the bound, one that has been idle
    /// for some seconds makes room, else the new one is rejected as transient.
    pub associations_max: usize,
    /// Open associations from one address. Where that is less than all, the last eighth of all is kept for addresses that hold none.
    pub associations_per_peer_max: usize,
    /// New connections from one address in a minute; beyond them it is put off.
    pub connections_per_minute_max: u32,
    /// Rejected or failed connections of one address in a minute; beyond them it is put off.
    pub failures_per_minute_max: u32,
    /// Whether loopback is put off like any address.
    pub loopback_rated: bool,
    /// Longest PDU that we take, bytes after its header (PS3.8 section D.1); a longer one closes the connection. 1,024 to 1,048,576.
    pub pdu_length_max: u32,
    /// Largest data set, bytes; a larger one is refused with 0xA700.
    pub instance_bytes_max: u64,
    /// Time from the connection to the whole A-ASSOCIATE-RQ (ARTIM, PS3.8 section 9.1.5), s.
    pub association_request_timeout_s: u32,
    /// Time without a message on an open association, s.
    pub idle_timeout_s: u32,
    /// Longest life of an association, s; it is ended at the next pause between messages.
    pub association_s_max: u32,
    /// Storage SOP classes to accept beside the built-in ones.
    pub sop_classes_extra: Vec<String>,
    /// Whether storage commitment is offered.
    pub storage_commitment: bool,
}

impl ReceiveOptions {
    /// PDU length within what the buffers and the protocol can do.
    #[must_use]
    pub fn pdu_length_clamped(&self) -> u32 {
        self.pdu_length_max.clamp(1024, 1024 * 1024)
    }
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        #[allow(clippy::unwrap_used)] // a constant, covered by a test
        let ae_title = AeTitle::try_new("SCANSIDE").unwrap();
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 11112)),
            ae_title,
            called_ae_title_checked: true,
            calling_ae_titles_allowed: Vec::new(),
            peers_allowed: Vec::new(),
            peer_rules: Vec::new(),
            associations_max: 128,
            associations_per_peer_max: 96,
            connections_per_minute_max: 6000,
            failures_per_minute_max: 60,
            loopback_rated: false,
            pdu_length_max: 256 * 1024,
            instance_bytes_max: 2 * 1024 * 1024 * 1024,
            association_request_timeout_s: 30,
            idle_timeout_s: 60,
            association_s_max: 4 * 3600,
            sop_classes_extra: Vec::new(),
            storage_commitment: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_networks_are_parsed_and_hold_their_addresses() {
        let holds = |net: &str, peer: &str| net.parse::<PeerNet>().unwrap().contains(peer.parse().unwrap());
        assert!(holds("10.1.2.0/24", "10.1.2.200") && !holds("10.1.2.0/24", "10.1.3.200"));
        assert!(holds("10.1.2.3", "::ffff:10.1.2.3"), "mapped addresses are the same peer");
        assert!(holds("0.0.0.0/0", "8.8.8.8") && !holds("0.0.0.0/0", "2001:db8::1"));
        assert!(holds("2001:db8::/32", "2001:db8:5::1") && holds("::/0", "2001:db8::1"));
        for wrong in ["", "10.1.2", "10.1.2.3/33", "10.1.2.3/-1", "host", "10.1.2.3/24/8"] {
            assert_eq!(wrong.parse::<PeerNet>(), Err(PeerNetError), "{wrong}");
        }
    }

    #[test]
    fn default_binds_loopback_alone() {
        assert!(ReceiveOptions::default().listen.ip().is_loopback());
    }
}
