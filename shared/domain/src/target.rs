//! Where deliveries may go: which URLs a webhook may name, and which addresses a connection may have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// The longest target, in bytes.
const MAX_TARGET_BYTES: usize = 2_048;

/// A webhook's URL, exactly as its tenant wrote it, and a form of it that is sent byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Target {
    text: String,
    url: Url,
}

/// Which targets the operator allows (settings `targets.*`).
#[derive(Debug, Clone, Default)]
pub struct TargetRules {
    /// Networks that targets may be in although they are not public.
    pub allow_networks: Vec<IpNet>,
    /// The ports that targets may have; empty: all.
    pub allow_ports: Vec<u16>,
    /// Refuses `http://`.
    pub https_only: bool,
}

/// Why a target is refused; said to the tenant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It is no URL that requests can be sent to.
    #[error("must be an http or https URL: {0}")]
    NotAUrl(String),
    /// A URL that would not be sent as written.
    #[error("would be sent as `{0}`: write it so")]
    Rewritten(String),
    /// The operator wants TLS.
    #[error("must be an https URL here")]
    NotHttps,
    /// The port is not among those allowed.
    #[error("port {0} is not allowed here")]
    Port(u16),
    /// The address is not public, and its network is not allowed.
    #[error("lies in a network that Fanfare may not call ({0})")]
    Forbidden(String),
}

impl Target {
    /// The URL as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The URL as sent.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Parses and checks a target as it is saved. What a name resolves to is checked when a connection is made.
    pub fn parse(text: &str, rules: &TargetRules) -> Result<Self, TargetError> {
        let target = Self::try_from(text.to_owned())?;
        rules.check(&target.url)?;
        Ok(target)
    }
}

impl TryFrom<String> for Target {
    type Error = TargetError;
    fn try_from(text: String) -> Result<Self, TargetError> {
        let not_a_url = |why: &str| TargetError::NotAUrl(why.to_owned());
        if text.len() > MAX_TARGET_BYTES {
            return Err(TargetError::NotAUrl(format!("longer than {MAX_TARGET_BYTES} bytes")));
        }
        let url = Url::parse(&text).map_err(|error| not_a_url(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(not_a_url(&format!("its scheme is `{}`", url.scheme())));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(not_a_url("it has no host"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(not_a_url("it holds a user or password: use a header instead"));
        }
        if url.fragment().is_some() {
            return Err(not_a_url("it holds a fragment, which is never sent"));
        }
        // The URL standard repairs what it reads (dot segments, spaces, quotes). A target is kept byte for byte, so one
        // that would be repaired is sent back to its author instead.
        let after_host = text
            .split_once("://")
            .and_then(|(_, rest)| rest.find(['/', '?', '\\']).map(|at| &rest[at..]))
            .unwrap_or("");
        let sent = &url[url::Position::BeforePath..];
        let same = match after_host {
            "" => sent == "/",
            query if query.starts_with('?') => sent.strip_prefix('/') == Some(query),
            whole => sent == whole,
        };
        if same { Ok(Self { text, url }) } else { Err(TargetError::Rewritten(url.to_string())) }
    }
}

impl From<Target> for String {
    fn from(target: Target) -> String {
        target.text
    }
}

impl TargetRules {
    /// Checks what can be told of a URL without resolving its host.
    pub fn check(&self, url: &Url) -> Result<(), TargetError> {
        if self.https_only && url.scheme() != "https" {
            return Err(TargetError::NotHttps);
        }
        let port = url.port_or_known_default().unwrap_or_default();
        if !self.allow_ports.is_empty() && !self.allow_ports.contains(&port) {
            return Err(TargetError::Port(port));
        }
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_address(address.into()),
            Some(Host::Ipv6(address)) => self.check_address(address.into()),
            Some(Host::Domain(name)) => {
                // RFC 6761 6.3: these names are loopback wherever they are looked up.
                let name = name.trim_end_matches('.');
                if name == "localhost" || name.ends_with(".localhost") {
                    return self
                        .check_address(Ipv4Addr::LOCALHOST.into())
                        .or_else(|refused| self.check_address(Ipv6Addr::LOCALHOST.into()).map_err(|_| refused));
                }
                Ok(())
            }
            None => Err(TargetError::NotAUrl("it has no host".to_owned())),
        }
    }

    /// Whether a connection may be made to this address.
    pub fn check_address(&self, address: IpAddr) -> Result<(), TargetError> {
        let address = address.to_canonical(); // ::ffff:10.0.0.1 is 10.0.0.1
        if self.allow_networks.iter().any(|network| network.contains(&address)) || is_public(address) {
            return Ok(());
        }
        Err(TargetError::Forbidden(forbidden_network(address)))
    }
}

/// Networks that are not the public internet (the IANA special-purpose address registries for IPv4 and IPv6).
const NOT_PUBLIC_V4: [(Ipv4Addr, u8); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// Within 2000::/3, all else being none of the public internet's.
const NOT_PUBLIC_V6: [(Ipv6Addr, u8); 3] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocol assignments: Teredo, ORCHID, benchmarking
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

fn network_v4(address: Ipv4Addr) -> Option<IpNet> {
    let network = |&(net, bits): &(Ipv4Addr, u8)| IpNet::new(net.into(), bits).ok();
    NOT_PUBLIC_V4.iter().filter_map(network).find(|net| net.contains(&IpAddr::V4(address)))
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => network_v4(address).is_none(),
        IpAddr::V6(address) => match embedded_v4(address) {
            Some(inner) => network_v4(inner).is_none(),
            None => {
                let excepted = |&(net, bits): &(Ipv6Addr, u8)| {
                    IpNet::new(net.into(), bits).is_ok_and(|net| net.contains(&IpAddr::V6(address)))
                };
                address.segments()[0] & 0xe000 == 0x2000 && !NOT_PUBLIC_V6.iter().any(excepted)
            }
        },
    }
}

/// The IPv4 address that an IPv6 address leads to through a translator: NAT64 (RFC 6052) and 6to4 (RFC 3056).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let from = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match [a, b] {
        [0x64, 0xff9b] if [c, d, e, f] == [0; 4] => Some(from(g, h)),
        [0x2002, _] => Some(from(b, c)),
        _ => None,
    }
}

fn forbidden_network(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => network_v4(address).map_or_else(|| address.to_string(), |net| net.to_string()),
        IpAddr::V6(address) => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Target, TargetError> {
        Target::parse(text, &TargetRules::default())
    }

    #[test]
    fn a_target_is_sent_as_written_or_refused() {
        for text in [
            "https://example.com",
            "https://example.com/",
            "http://example.com:8080/a/b?x=1&x=2&empty=&q=%2F+plus%20",
            "https://example.com?only=query",
            "https://EXAMPLE.com/Path;v=1/%c3%a9",
            "https://93.184.216.34/x",
            "https://example.com/a//b/",
        ] {
            assert_eq!(parse(text).unwrap().as_str(), text);
        }
        for text in [
            "https://example.com/a/../b",
            "https://example.com/a b",
            "https://example.com/ä",
            "https://example.com\\x",
            "https://example.com/?a='",
        ] {
            assert!(matches!(parse(text), Err(TargetError::Rewritten(_))), "{text}: {:?}", parse(text));
        }
        for text in [
            "",
            "example.com",
            "ftp://example.com/",
            "https://",
            "https://user@example.com/",
            "https://example.com/#top",
            "javascript:alert(1)",
        ] {
            assert!(matches!(parse(text), Err(TargetError::NotAUrl(_))), "{text}: {:?}", parse(text));
        }
    }

    #[test]
    fn only_public_addresses_unless_allowed() {
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "[::1]",
            "[::]",
            "[fe80::1]",
            "[fc00::1]",
            "[::ffff:10.0.0.1]",
            "[64:ff9b::a00:1]",
            "[2002:a00:1::]",
            "[2001:db8::1]",
            "localhost",
            "x.localhost",
            "LOCALHOST.",
        ] {
            let refused = parse(&format!("http://{host}/hook"));
            assert!(matches!(refused, Err(TargetError::Forbidden(_))), "{host}: {refused:?}");
        }
        for host in ["1.1.1.1", "[2606:4700::1111]", "example.com", "[64:ff9b::808:808]"] {
            assert!(parse(&format!("http://{host}/hook")).is_ok(), "{host}");
        }
        let loopback = TargetRules { allow_networks: vec!["127.0.0.0/8".parse().unwrap()], ..TargetRules::default() };
        assert!(Target::parse("http://127.0.0.1:9/", &loopback).is_ok());
        assert!(Target::parse("http://localhost:9/", &loopback).is_ok());
        assert!(Target::parse("http://10.0.0.1/", &loopback).is_err());
    }

    #[test]
    fn the_operator_narrows_scheme_and_port() {
        let strict = TargetRules { https_only: true, allow_ports: vec![443], ..TargetRules::default() };
        assert_eq!(Target::parse("http://example.com/", &strict), Err(TargetError::NotHttps));
        assert_eq!(Target::parse("https://example.com:8443/", &strict), Err(TargetError::Port(8443)));
        assert!(Target::parse("https://example.com/", &strict).is_ok());
    }
}
