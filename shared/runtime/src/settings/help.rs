//! What `--help` says: every setting with its default, from where it is declared.

use std::fmt::Write as _;

use figment::{
    Figment,
    providers::Serialized,
    value::{Dict, Value},
};

use super::{
    AdminSettings, AmqpSection, ApiSettings, CatalogSettings, ConsoleSettings, DispatcherSettings, IngestSettings,
    LogSettings, RedisSection, RuntimeSettings, SchedulerSettings, SecretSettings, Service, Settings, ShutdownSettings,
    SmtpSettings, TargetSettings, TelemetrySettings, setting_name,
};

fn help_rows() -> Vec<(&'static str, &'static str, &'static str)> {
    [
        AmqpSection::HELP,
        RedisSection::HELP,
        LogSettings::HELP,
        IngestSettings::HELP,
        ApiSettings::HELP,
        AdminSettings::HELP,
        SecretSettings::HELP,
        CatalogSettings::HELP,
        TargetSettings::HELP,
        DispatcherSettings::HELP,
        SchedulerSettings::HELP,
        RuntimeSettings::HELP,
        ShutdownSettings::HELP,
        ConsoleSettings::HELP,
        TelemetrySettings::HELP,
        SmtpSettings::HELP,
    ]
    .concat()
}

/// What `--help` answers.
pub(super) fn help(service: Service) -> String {
    let defaults: Dict = Figment::from(Serialized::defaults(Settings::default())).extract().unwrap_or_default();
    let name = service.name();
    let checks = match service {
        Service::Api => "--check-config | --check-catalog FILE | --check-delivery API INGEST ADDRESS PORT",
        _ => "--check-config",
    };
    let mut text = format!(
        "fanfare-{name}: one of Fanfare's five services.\n\nUsage: fanfare-{name} [{checks} | --help | --version]\n\n\
         Settings come from the environment, over the TOML file that FANFARE_CONFIG names, over these defaults:\n\n"
    );
    for (section, key, help) in help_rows() {
        let default =
            defaults.get(section).and_then(|section| section.as_dict()?.get(key)).map(shown).unwrap_or_default();
        let _ = writeln!(
            text,
            "  {}\n      {} Default: {default}.",
            setting_name(&[section.into(), key.into()]),
            help.trim()
        );
    }
    text
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("`{text}`"),
        Value::Bool(_, value) => value.to_string(),
        Value::Num(_, number) => {
            number.to_u128().map_or_else(|| format!("{:?}", number.to_f64().unwrap_or_default()), |n| n.to_string())
        }
        _ => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_setting_with_its_default() {
        let text = help(Service::Api);
        let defaults: Dict = Figment::from(Serialized::defaults(Settings::default())).extract().unwrap();
        for (section, keys) in &defaults {
            for key in keys.as_dict().unwrap().keys() {
                assert!(text.contains(&setting_name(&[section.clone(), key.clone()])), "{section}.{key} has no help");
            }
        }
        assert!(text.contains("`15s`") && text.contains("262144") && text.contains("`8GiB`"), "{text}");
    }
}
