//! The catalogs that a process knows: those that come with Fanfare, and the operator's own.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::Context;

use crate::Catalog;

/// The catalogs beside this crate, by their files' names.
const BUILTIN: [(&str, &str); 6] = [
    ("standard.yaml", include_str!("../catalogs/standard.yaml")),
    ("apirtc.yaml", include_str!("../catalogs/apirtc.yaml")),
    ("capturi.yaml", include_str!("../catalogs/capturi.yaml")),
    ("ebbot.yaml", include_str!("../catalogs/ebbot.yaml")),
    ("structurely.yaml", include_str!("../catalogs/structurely.yaml")),
    ("tracebuzz.yaml", include_str!("../catalogs/tracebuzz.yaml")),
];

/// All catalogs that a process knows.
#[derive(Debug, Clone)]
pub struct Catalogs {
    by_name: BTreeMap<String, Arc<Catalog>>,
}

impl Catalogs {
    /// The catalogs that come with Fanfare.
    pub fn builtin() -> Self {
        let mut catalogs = Self { by_name: BTreeMap::new() };
        for (file, text) in BUILTIN {
            catalogs.add(file, text).expect("the built-in catalogs are right: a test compiles them");
        }
        catalogs
    }

    /// The built-in catalogs and those of a folder's `*.yaml`; an error names the file, the line and why.
    pub fn load(folder: Option<&Path>) -> anyhow::Result<Self> {
        let mut catalogs = Self::builtin();
        let Some(folder) = folder else { return Ok(catalogs) };
        let place = || format!("reading the catalogs in `{}`", folder.display());
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).with_context(place)? {
            let path = entry.with_context(place)?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                files.push(path);
            }
        }
        files.sort(); // so that the same folder gives the same error everywhere
        for path in files {
            let text = std::fs::read_to_string(&path).with_context(|| format!("reading `{}`", path.display()))?;
            catalogs.add(&path.display().to_string(), &text)?;
        }
        Ok(catalogs)
    }

    fn add(&mut self, file: &str, text: &str) -> anyhow::Result<()> {
        let wrong = || format!("catalog `{file}` is wrong");
        let catalog = Catalog::parse(text).with_context(wrong)?;
        self.join(catalog).map(drop).map_err(anyhow::Error::msg).with_context(wrong)
    }

    /// Adds one more; the error is why it cannot join the others.
    pub fn join(&mut self, catalog: Catalog) -> Result<Arc<Catalog>, String> {
        let name = catalog.name().to_owned();
        if self.by_name.contains_key(&name) {
            return Err(format!("there is a catalog `{name}` already"));
        }
        let catalog = Arc::new(catalog);
        self.by_name.insert(name, catalog.clone());
        Ok(catalog)
    }

    /// The catalog of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Catalog>> {
        self.by_name.get(name)
    }

    /// The catalog whose text has this digest ([`Catalog::digest`]).
    pub fn by_digest(&self, digest: &str) -> Option<&Arc<Catalog>> {
        self.by_name.values().find(|catalog| catalog.digest() == digest)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Catalog>> {
        self.by_name.values()
    }

    /// Their names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What loading a folder of these files gives: the catalogs' names, or the error.
    fn loaded(test: &str, files: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let folder = std::env::temp_dir().join(format!("fanfare-catalogs-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let loaded = Catalogs::load(Some(&folder));
        std::fs::remove_dir_all(&folder).unwrap();
        loaded.map(|catalogs| catalogs.names().map(str::to_owned).collect()).map_err(|error| format!("{error:#}"))
    }

    const SHOP: &str = "format: 1\nname: shop\ndescription: d\nrequest: { body: { full: . } }\n";

    #[test]
    fn a_folders_catalogs_join_the_built_in_ones() {
        let builtin: Vec<String> = Catalogs::builtin().names().map(str::to_owned).collect();
        let mut with_shop = [builtin.clone(), vec!["shop".to_owned()]].concat();
        with_shop.sort();
        assert_eq!(loaded("joins", &[("a.yaml", SHOP), ("b.txt", "no catalog")]), Ok(with_shop));
        assert_eq!(loaded("empty", &[]), Ok(builtin));
        assert!(Catalogs::load(Some(Path::new("/nowhere"))).is_err());
    }

    #[test]
    fn a_wrong_file_is_named_with_its_line_and_why() {
        for (test, files, expected) in [
            (
                "jq",
                &[("b.yaml", SHOP), ("a.yaml", &SHOP.replace("full: .", "full: now"))][..],
                "a.yaml` is wrong: line 4: request.body.full: line 1 of the template, at `now`: a template has no function `now`",
            ),
            ("twice", &[("a.yaml", SHOP), ("b.yaml", SHOP)], "b.yaml` is wrong: there is a catalog `shop` already"),
            (
                "taken",
                &[("a.yaml", &SHOP.replace("shop", "standard"))],
                "a.yaml` is wrong: there is a catalog `standard` already",
            ),
            ("none", &[("a.yaml", "")], "a.yaml` is wrong: "),
        ] {
            let error = loaded(test, files).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn catalogs_are_shared_between_threads() {
        fn shared<T: Send + Sync + 'static>(_: &T) {}
        shared(&Catalogs::builtin());
    }
}
