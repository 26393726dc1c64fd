//! Values of the configuration that carry their own rules: text in -> `PeerRange`, `WebhookUrl`, `HostPort`, `EngineChoice`, `LogLevel`, or what is wrong.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// An address or a block of addresses in CIDR notation (RFC 4632), such as `10.1.2.3` or `10.1.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerRange {
    address: IpAddr,
    prefix_bits: u8,
}

impl PeerRange {
    /// Reads `10.1.2.3`, `10.1.0.0/16`, `fd00::/8` ...
    ///
    /// # Errors
    /// A sentence about what is wrong.
    pub fn try_new(text: &str) -> Result<Self, String> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| format!("{text:?} is no address: write one such as \"10.1.2.3\", or a block such as \"10.1.0.0/16\""))?;
        let bits_max: u8 = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            None => bits_max,
            Some(digits) => {
                let plain = !digits.is_empty() && digits.len() <= 3 && digits.bytes().all(|b| b.is_ascii_digit());
                let bits = if plain { digits.parse::<u8>().ok() } else { None };
                bits.filter(|bits| *bits <= bits_max)
                    .ok_or_else(|| format!("{text:?}: the part after the slash must be a number from 0 to {bits_max}"))?
            }
        };
        let range = Self { address, prefix_bits };
        let network = range.network();
        if network != address {
            return Err(format!("{text:?} has bits beyond its prefix: write \"{network}/{prefix_bits}\" for the whole block"));
        }
        Ok(range)
    }

    /// First address of the block.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Leading bits that count.
    #[must_use]
    pub fn prefix_bits(&self) -> u8 {
        self.prefix_bits
    }

    /// Whether `peer` lies in the block; an IPv4 address mapped into IPv6 counts as the IPv4 address.
    #[must_use]
    pub fn contains(&self, peer: IpAddr) -> bool {
        match (self.address, peer.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_bits)).unwrap_or(0);
                ours.to_bits() & mask == theirs.to_bits() & mask
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_bits)).unwrap_or(0);
                ours.to_bits() & mask == theirs.to_bits() & mask
            }
            _ => false,
        }
    }

    fn network(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_bits)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & mask))
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_bits)).unwrap_or(0);
                IpAddr::V6(std::net::Ipv6Addr::from_bits(a.to_bits() & mask))
            }
        }
    }
}

impl fmt::Display for PeerRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.address.is_ipv4() { 32 } else { 128 };
        if self.prefix_bits == whole { write!(f, "{}", self.address) } else { write!(f, "{}/{}", self.address, self.prefix_bits) }
    }
}

/// The address of a webhook: `http` or `https`, a host, no user name, no fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookUrl {
    text: String,
    host: String,
    authority: String,
}

impl WebhookUrl {
    /// Checks `text`.
    ///
    /// # Errors
    /// A sentence about what is wrong.
    pub fn try_new(text: &str) -> Result<Self, String> {
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))
            .ok_or_else(|| "must begin with http:// or https://".to_owned())?;
        if text.len() > 2048 {
            return Err("is longer than 2048 characters".to_owned());
        }
        if !text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b'`' | b'{' | b'}' | b'|' | b'^'))
        {
            return Err("holds a character that a URL must not hold: percent-encode it".to_owned());
        }
        if rest.contains('#') {
            return Err("holds a fragment (#...), which is never sent: remove it".to_owned());
        }
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err("holds a user name or password: remove it, messages are signed with the secret instead".to_owned());
        }
        let (host, port) = split_port(authority)?;
        if host.is_empty() {
            return Err("has no host: write, for example, https://alerts.hospital.example/scanside".to_owned());
        }
        if let Some(port) = port
            && port.parse::<u16>().ok().filter(|port| *port > 0).is_none()
        {
            return Err(format!("{port:?} is no port: 1 to 65535"));
        }
        let (host, authority) = (host.to_owned(), authority.to_owned());
        Ok(Self { text: text.to_owned(), host, authority })
    }

    /// The URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Host and port as written: what pages and logs show; a path or query may hold a token.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.text.starts_with("https://")
    }

    /// Whether it stays on this box.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or_else(|| "has an address that opens with [ but has no ]".to_owned())?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(format!("{host:?} is no IPv6 address"));
        }
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err("has something between ] and the port".to_owned()),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Err(format!("{host:?} is no host name"));
    }
    Ok((host, port))
}

/// A host and a port that we call, such as `10.1.2.3:104`, `pacs.hospital.example:11112` or `[fd00::1]:104`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    text: String,
    host: String,
}

impl HostPort {
    /// Checks `text`.
    ///
    /// # Errors
    /// A sentence about what is wrong.
    pub fn try_new(text: &str) -> Result<Self, String> {
        if text.len() > 300 {
            return Err("is longer than 300 characters".to_owned());
        }
        let (host, port) = split_port(text)?;
        let number = port.filter(|port| port.bytes().all(|b| b.is_ascii_digit())).and_then(|port| port.parse::<u16>().ok());
        if host.is_empty() || number.is_none_or(|number| number == 0) {
            return Err(format!("{text:?} is no host with a port: write, for example, \"10.1.2.3:104\""));
        }
        Ok(Self { text: text.to_owned(), host: host.to_owned() })
    }

    /// Host and port as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it stays on this box.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

/// Which engine runs the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// The NPU where the configuration or the board profile names one, else the processor.
    #[default]
    Auto,
    /// The processor, whatever the board has.
    Cpu,
    /// The NPU; a box that has none shows degraded, and reads on the processor.
    Npu,
}

impl EngineChoice {
    /// All choices by name, as in the file.
    pub const ALL: [(&'static str, Self); 3] = [("auto", Self::Auto), ("cpu", Self::Cpu), ("npu", Self::Npu)];

    /// The name in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Npu => "npu",
        }
    }
}

/// When an image is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When its bytes, its name and its row in the index survive a power cut.
    #[default]
    Instance,
}

impl Durability {
    /// The name in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Instance => "instance",
        }
    }
}

/// How much is written to the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Failures only.
    Error,
    /// Refusals and retries, too.
    Warn,
    /// Ordinary work, too.
    #[default]
    Info,
    /// For developers.
    Debug,
    /// For developers with patience.
    Trace,
}

impl LogLevel {
    /// All levels by name, as in the file.
    pub const ALL: [(&'static str, Self); 5] =
        [("error", Self::Error), ("warn", Self::Warn), ("info", Self::Info), ("debug", Self::Debug), ("trace", Self::Trace)];

    /// The name in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_contains_its_addresses_and_no_others() {
        let block = PeerRange::try_new("10.1.0.0/16").expect("a block");
        assert!(block.contains("10.1.255.1".parse().expect("address")));
        assert!(block.contains("::ffff:10.1.0.9".parse().expect("mapped address")));
        assert!(!block.contains("10.2.0.1".parse().expect("address")));
        assert!(!block.contains("fd00::1".parse().expect("address")));
        assert!(PeerRange::try_new("0.0.0.0/0").expect("all").contains("8.8.8.8".parse().expect("address")));
        assert!(PeerRange::try_new("fd00::/8").expect("ula").contains("fd12::3".parse().expect("address")));
    }

    #[test]
    fn a_block_with_host_bits_is_refused_with_the_block_that_was_meant() {
        let message = PeerRange::try_new("10.1.2.3/16").expect_err("host bits");
        assert!(message.contains("10.1.0.0/16"), "{message}");
        assert!(PeerRange::try_new("10.1.2.3/33").is_err());
        assert!(PeerRange::try_new("10.1.2.3/+8").is_err());
        assert!(PeerRange::try_new("mr1.hospital").is_err());
    }

    #[test]
    fn a_host_to_call_has_a_port() {
        for bad in
            ["10.1.2.3", "10.1.2.3:", ":104", "10.1.2.3:0", "10.1.2.3:99999", "10.1.2.3:+4", "a b:104", "http://pacs:104", "[::1"]
        {
            assert!(HostPort::try_new(bad).is_err(), "{bad} was accepted");
        }
        assert!(HostPort::try_new("[::1]:104").expect("IPv6").is_loopback());
        assert!(!HostPort::try_new("pacs.hospital.example:11112").expect("a name").is_loopback());
    }

    #[test]
    fn webhook_urls_that_could_surprise_are_refused() {
        for bad in [
            "ftp://a/",
            "https://",
            "http://user:pw@host/",
            "http://h/#x",
            "http://h/a b",
            "http://[::1/",
            "http://h:0/",
            "http://h:99999/",
        ] {
            assert!(WebhookUrl::try_new(bad).is_err(), "{bad} was accepted");
        }
        let url = WebhookUrl::try_new("http://127.0.0.1:9000/hook?token=x").expect("the one of DESIGN.md");
        assert!(url.is_loopback() && !url.is_https());
        assert_eq!(url.authority(), "127.0.0.1:9000");
        assert!(WebhookUrl::try_new("https://[::1]:8443/x").expect("IPv6").is_loopback());
    }
}
