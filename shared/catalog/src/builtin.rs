//! The catalogs that a process knows: those that come with Fanfare, and the operator's own.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::{Context, bail};

use crate::Catalog;

/// The catalogs beside this crate, by their files' names.
const BUILTIN: [(&str, &str); 2] = [
    ("standard.yaml", include_str!("../catalogs/standard.yaml")),
    ("capturi.yaml", include_str!("../catalogs/capturi.yaml")),
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
        let catalog = Catalog::parse(text).with_context(|| format!("catalog `{file}` is wrong"))?;
        let name = catalog.name().to_owned();
        if self.by_name.contains_key(&name) {
            bail!("catalog `{file}` is wrong: there is a catalog `{name}` already");
        }
        self.by_name.insert(name, Arc::new(catalog));
        Ok(())
    }

    /// The catalog of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Catalog>> {
        self.by_name.get(name)
    }

    /// The catalog whose text has this digest ([`Catalog::digest`]).
    pub fn by_digest(&self, digest: &str) -> Option<&Arc<Catalog>> {
        self.by_name.values().find(|catalog| catalog.digest() == digest)
    }

    /// Their names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }
}
