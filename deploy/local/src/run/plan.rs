//! What goes where: ports, settings, catalog, the folder `.run`.
use anyhow::{Context, Result, bail};
use fanfare_local::{Holder, Sandbox, Service, Settings, holder_of};
use std::fs::{OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const AMQP_URL: &str = "FANFARE_AMQP__URL";
const REDIS_URL: &str = "FANFARE_REDIS__URL";
/// Beyond all ports that go with one base.
const PRIVATE_STEP: u16 = 20;
const SECRET_KEYS: &str = "FANFARE_SECRETS__KEYS";
const SPEED: &str = "FANFARE_SCHEDULER__SPEED";

/// What `make run` was asked for.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) ports: Ports,
    pub(crate) catalog: String,
    /// Logs, the operator's token, an example: new each time.
    pub(crate) folder: PathBuf,
    /// The environment's own settings of Fanfare: they go over ours, but for the ports.
    given: Settings,
}

/// Where everything listens on 127.0.0.1.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) ingest: u16,
    pub(crate) api: u16,
    pub(crate) broker: u16,
    pub(crate) management: u16,
    pub(crate) redis: u16,
    pub(crate) receiver: u16,
    /// The first of five, in the contract's order.
    admin: u16,
}

impl Ports {
    /// The contract's, and for what is private some that no installed server has.
    const USUAL: Self =
        Self { ingest: 8080, api: 8081, broker: 45672, management: 45673, redis: 46379, receiver: 49000, admin: 9101 };

    /// All next to each other.
    fn from_base(base: u16) -> Self {
        Self {
            ingest: base,
            api: base + 1,
            broker: base + 2,
            management: base + 3,
            redis: base + 4,
            receiver: base + 5,
            admin: base + 6,
        }
    }

    fn admin(&self, service: Service) -> u16 {
        self.admin
            + match service {
                Service::Ingest => 0,
                Service::Fanout => 1,
                Service::Dispatcher => 2,
                Service::Scheduler => 3,
                Service::Api => 4,
            }
    }
}

impl Plan {
    pub(crate) fn from_env(variables: impl Iterator<Item = (String, String)>) -> Result<Self> {
        let (mut base, mut catalog, mut given) = (None, "capturi".to_owned(), Settings::new());
        for (name, value) in variables {
            match name.as_str() {
                _ if value.is_empty() => {}
                "PORT_BASE" => base = Some(value),
                "CATALOG" => catalog = value,
                "SPEED" => drop(given.insert(SPEED.to_owned(), value)),
                SPEED => drop(given.entry(name).or_insert(value)), // `make run SPEED=…` goes over it
                _ if name.starts_with("FANFARE_") && name.contains("__") => drop(given.insert(name, value)),
                _ => {}
            }
        }
        let (ports, folder) = match base {
            None => (Ports::USUAL, checkout().join(".run")),
            Some(text) => {
                let base = text.parse().ok().filter(|base| (1_024..=65_000).contains(base));
                let base = base.with_context(|| format!("PORT_BASE `{text}` is no number from 1024 to 65000"))?;
                (Ports::from_base(base), checkout().join(".run").join(base.to_string()))
            }
        };
        Ok(Self { ports, catalog, folder, given })
    }

    /// The broker that the environment names, instead of a private one.
    pub(crate) fn given_broker(&self) -> Option<&str> {
        self.given.get(AMQP_URL).map(String::as_str)
    }

    /// The Redis that the environment names, instead of a private one.
    pub(crate) fn given_redis(&self) -> Option<&str> {
        self.given.get(REDIS_URL).map(String::as_str)
    }

    /// How many times as fast as their schedules say retries come; `None` where they take their time.
    pub(crate) fn speed(&self) -> Option<&str> {
        self.given.get(SPEED).map(String::as_str).filter(|speed| *speed != "1")
    }

    /// The catalogs that lie beside the built-in one that runs.
    pub(crate) fn other_catalogs(&self) -> Vec<String> {
        let files = std::fs::read_dir(checkout().join("shared/catalog/catalogs")).into_iter().flatten().flatten();
        let mut names: Vec<String> = files
            .filter_map(|file| file.file_name().to_str()?.strip_suffix(".yaml").map(ToOwned::to_owned))
            .filter(|name| *name != self.catalog)
            .collect();
        names.sort();
        names
    }

    /// Checks that all ports are free, before anything is started, and clears the folder.
    pub(crate) fn prepare(&mut self) -> Result<Sandbox> {
        // What nobody but us knows the port of takes another, where an ended connection holds it.
        for port in
            [&mut self.ports.broker, &mut self.ports.management, &mut self.ports.redis, &mut self.ports.receiver]
        {
            while holder_of(*port) == Some(Holder::EndedConnection) && *port < u16::MAX - PRIVATE_STEP {
                *port += PRIVATE_STEP;
            }
        }
        for port in self.needed_ports() {
            if let Some(holder) = holder_of(port) {
                let base = if self.folder.ends_with(".run") { 50_000 } else { 52_000 };
                bail!("{port} is taken by {holder}; PORT_BASE={base} make run");
            }
        }
        self.clear_folder().with_context(|| format!("clearing `{}`", self.folder.display()))?;
        Sandbox::with_logs(&self.folder)
    }

    fn clear_folder(&self) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        std::fs::set_permissions(&self.folder, Permissions::from_mode(0o700))?; // a key and a token lie here
        for entry in std::fs::read_dir(&self.folder)?.flatten() {
            let is_log = entry.path().extension().is_some_and(|ending| ending == "log");
            if is_log || [self.token_file(), self.event_file(), self.answer_file()].contains(&entry.path()) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn needed_ports(&self) -> Vec<u16> {
        let mut ports = vec![self.ports.ingest, self.ports.api, self.ports.receiver];
        if self.given_broker().is_none() {
            ports.extend([self.ports.broker, self.ports.management]);
        }
        if self.given_redis().is_none() {
            ports.push(self.ports.redis);
        }
        ports.extend(Service::ALL.map(|service| self.ports.admin(service)));
        ports
    }

    /// The settings of all services.
    pub(crate) fn settings(&self, amqp_url: &str, redis_url: &str) -> Result<Settings> {
        let mut settings = fanfare_local::settings(amqp_url, redis_url);
        if self.given_redis().is_some() {
            // What a Redis keeps has to be read next time too.
            settings.insert(SECRET_KEYS.into(), self.kept_key(&settings[SECRET_KEYS])?);
        }
        settings.extend(self.given.clone());
        Ok(settings)
    }

    /// The settings of one.
    pub(crate) fn settings_of(&self, service: Service, settings: &Settings) -> Settings {
        let mut settings = settings.clone();
        let at = |port: u16| format!("127.0.0.1:{port}");
        match service {
            Service::Ingest => drop(settings.insert("FANFARE_INGEST__LISTEN".into(), at(self.ports.ingest))),
            Service::Api => drop(settings.insert("FANFARE_API__LISTEN".into(), at(self.ports.api))),
            Service::Fanout | Service::Dispatcher | Service::Scheduler => {}
        }
        settings.insert("FANFARE_ADMIN__LISTEN".into(), at(self.ports.admin(service)));
        settings
    }

    /// The api, for a person.
    pub(crate) fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.api)
    }

    /// Where to publish over HTTP.
    pub(crate) fn events_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1/events", self.ports.ingest)
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.folder.join("admin-token")
    }

    pub(crate) fn event_file(&self) -> PathBuf {
        self.folder.join("event.json")
    }

    /// The status that the receiver answers with, where somebody wants another than 200.
    pub(crate) fn answer_file(&self) -> PathBuf {
        self.folder.join("answer")
    }

    pub(crate) fn write_token(&self, token: &str) -> Result<()> {
        write_private(&self.token_file(), token)
    }

    fn kept_key(&self, new: &str) -> Result<String> {
        let file = self.folder.join("secret-keys");
        if let Ok(kept) = std::fs::read_to_string(&file) {
            return Ok(kept.trim().to_owned());
        }
        write_private(&file, new)?;
        Ok(new.to_owned())
    }
}

/// The checkout this program was built from.
pub(crate) fn checkout() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

fn write_private(file: &Path, line: &str) -> Result<()> {
    let open = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(file);
    let written = open.and_then(|mut open| writeln!(open, "{line}"));
    written.with_context(|| format!("writing `{}`", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(variables: &[(&str, &str)]) -> Result<Plan> {
        Plan::from_env(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn a_port_base_shifts_all_ports() {
        let usual = plan(&[("PORT_BASE", "")]).unwrap();
        assert_eq!(usual.needed_ports(), [8080, 8081, 49000, 45672, 45673, 46379, 9101, 9105, 9102, 9103, 9104]);
        let shifted = plan(&[("PORT_BASE", "50000")]).unwrap();
        let mut ports = shifted.needed_ports();
        ports.sort_unstable();
        assert_eq!(ports, (50_000..=50_010).collect::<Vec<u16>>());
        assert_ne!(usual.folder, shifted.folder, "two may run at once");
        for bad in ["80", "65001", "x", "-1"] {
            assert!(plan(&[("PORT_BASE", bad)]).unwrap_err().to_string().contains(bad));
        }
    }

    #[test]
    fn the_speed_of_make_run_is_the_schedulers() {
        for (given, speed) in [
            (vec![], None),
            (vec![("SPEED", "")], None),
            (vec![("SPEED", "1")], None),
            (vec![("SPEED", "600")], Some("600")),
            (vec![("SPEED", "600"), (SPEED, "2")], Some("600")),
            (vec![(SPEED, "2"), ("SPEED", "600")], Some("600")),
        ] {
            let plan = plan(&given).unwrap();
            assert_eq!(plan.speed(), speed, "{given:?}");
            let settings = plan.settings("amqp://there", "redis://here").unwrap();
            assert_eq!(settings.get(SPEED).map(String::as_str).filter(|speed| *speed != "1"), speed);
        }
    }

    #[test]
    fn the_other_catalogs_are_named() {
        let others = plan(&[("CATALOG", "standard")]).unwrap().other_catalogs();
        assert!(others.len() >= 5 && !others.contains(&"standard".to_owned()), "{others:?}");
    }

    #[test]
    fn the_environments_settings_go_over_ours() {
        let given = [("FANFARE_AMQP__URL", "amqp://there"), ("FANFARE_SCHEDULER__SPEED", "100"), ("FANFARE_X", "no")];
        let plan = plan(&given).unwrap();
        assert_eq!((plan.given_broker(), plan.given_redis()), (Some("amqp://there"), None));
        assert!(!plan.needed_ports().contains(&45672));
        let settings = plan.settings("amqp://there", "redis://here").unwrap();
        assert_eq!(settings["FANFARE_SCHEDULER__SPEED"], "100");
        assert_eq!(settings["FANFARE_REDIS__URL"], "redis://here");
        assert!(!settings.contains_key("FANFARE_X"));
        assert_eq!(plan.speed(), Some("100"));
        assert_eq!(plan.settings_of(Service::Api, &settings)["FANFARE_ADMIN__LISTEN"], "127.0.0.1:9105");
    }
}
