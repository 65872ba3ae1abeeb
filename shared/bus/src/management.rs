//! Where the broker's management API is, which tells what AMQP does not.

use percent_encoding::percent_decode_str;
use url::Url;

use crate::AmqpSettings;

/// The management API of a broker, and of its vhost.
#[derive(Clone)]
pub struct ManagementSettings {
    /// What `/api` follows, without user and password.
    base: Url,
    /// Who asks.
    pub username: String,
    /// That user's password.
    pub password: String,
    vhost: String,
}

impl ManagementSettings {
    /// Parses `http://user:password@host:15672` or `https://…`. Where it names no user, who uses the broker asks.
    pub fn parse(url: &str, amqp: &AmqpSettings) -> Result<Self, String> {
        let form = || "must be `http://user:password@host:15672` or `https://…`, the user and password may be left out";
        let mut base = Url::parse(url).map_err(|_| form())?; // what it says may hold the password
        if !matches!(base.scheme(), "http" | "https") || base.query().is_some() || base.fragment().is_some() {
            return Err(form().to_owned());
        }
        let broker = &amqp.uris.first().ok_or("needs FANFARE_AMQP__URL")?;
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(Into::into).map_err(|_| form());
        let (username, password) = match base.username() {
            "" => (broker.authority.userinfo.username.clone(), broker.authority.userinfo.password.clone()),
            user => (decoded(user)?, decoded(base.password().unwrap_or_default())?),
        };
        base.set_username("").and_then(|()| base.set_password(None)).map_err(|()| form())?;
        Ok(Self { base, username, password, vhost: broker.vhost.clone() })
    }

    /// Where one field is told of a queue of our vhost.
    pub fn queue(&self, queue: &str, field: &str) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["api", "queues", &self.vhost, queue]);
        }
        url.query_pairs_mut().append_pair("columns", field);
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<ManagementSettings, String> {
        let amqp = AmqpSettings::parse("amqp://fan:fare@broker/%2f", None, None, None).unwrap();
        ManagementSettings::parse(url, &amqp)
    }

    #[test]
    fn a_url_has_its_own_user_or_the_brokers() {
        for (url, username, password, queue) in [
            ("http://m:p%40ss@host:15672", "m", "p@ss", "http://host:15672/api/queues/%2F/fanfare.dead?columns=x"),
            ("http://host:15672/", "fan", "fare", "http://host:15672/api/queues/%2F/fanfare.dead?columns=x"),
            ("https://m@host/rabbit/", "m", "", "https://host/rabbit/api/queues/%2F/fanfare.dead?columns=x"),
        ] {
            let parsed = parse(url).unwrap();
            assert_eq!((parsed.username.as_str(), parsed.password.as_str()), (username, password), "{url}");
            assert_eq!(parsed.queue("fanfare.dead", "x").as_str(), queue);
        }
    }

    #[test]
    fn what_is_none_is_refused_without_being_repeated() {
        for url in ["", "host:15672", "amqp://m:secret@host", "http://m:secret@", "http://m:secret@host/?a=b"] {
            let why = parse(url).err().unwrap_or_else(|| panic!("takes {url}"));
            assert!(!why.contains("secret"), "{why}");
        }
    }
}
