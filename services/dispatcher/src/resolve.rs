//! Names become addresses, and only those that may be called: what is connected to is what was checked.

use std::{net::SocketAddr, sync::Arc};

use fanfare_domain::TargetRules;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Why a name gives no address to connect to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    /// It does not resolve.
    #[error("the name `{0}` does not resolve")]
    Unknown(String),
    /// It resolves to addresses that Fanfare may not call.
    #[error("`{0}` lies in a network that Fanfare may not call")]
    Refused(String),
}

/// The system's resolver, with the operator's rules applied to its answers.
#[derive(Clone)]
pub(crate) struct Resolver {
    pub(crate) rules: Arc<TargetRules>,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let rules = self.rules.clone();
        Box::pin(async move {
            let host = name.as_str();
            let found: Vec<SocketAddr> = match tokio::net::lookup_host((host, 0)).await {
                Ok(found) => found.collect(),
                Err(_) => Vec::new(),
            };
            if found.is_empty() {
                return Err(ResolveError::Unknown(host.to_owned()).into());
            }
            let allowed: Vec<SocketAddr> =
                found.into_iter().filter(|address| rules.check_address(address.ip()).is_ok()).collect();
            if allowed.is_empty() {
                return Err(ResolveError::Refused(host.to_owned()).into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}
