//! Where the servers' programs are: this machine, or another Debian in a folder (`FANFARE_TEST_ROOT`, made by
//! `deploy/local/trixie`), where they are run by chroot.
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(Clone, Debug)]
pub(crate) struct Root {
    folder: Option<PathBuf>,
}

impl Root {
    pub(crate) fn from_env() -> Result<Self> {
        let folder = std::env::var_os("FANFARE_TEST_ROOT").filter(|folder| !folder.is_empty()).map(PathBuf::from);
        if let Some(folder) = &folder
            && !folder.join("proc/self").exists()
        {
            bail!(
                "FANFARE_TEST_ROOT `{0}` is no root with /proc bound; make it so with: deploy/local/trixie {0}",
                folder.display()
            );
        }
        Ok(Self { folder })
    }

    pub(crate) fn is_this_machine(&self) -> bool {
        self.folder.is_none()
    }

    /// Our name for what a program in this root calls `path`.
    pub(crate) fn outside(&self, path: &Path) -> PathBuf {
        match &self.folder {
            None => path.to_owned(),
            Some(folder) => folder.join(path.strip_prefix("/").unwrap_or(path)),
        }
    }

    /// What a program in this root calls our `path`.
    pub(crate) fn inside(&self, path: &Path) -> PathBuf {
        match &self.folder {
            None => path.to_owned(),
            Some(folder) => Path::new("/").join(path.strip_prefix(folder).unwrap_or(path)),
        }
    }

    /// Runs `program` (an absolute path, or looked up in its PATH) as `user`, where we may choose that.
    pub(crate) fn command(&self, user: Option<&str>, program: &str) -> Command {
        let mut words = Vec::new();
        if let Some(folder) = &self.folder {
            words.extend(["chroot".into(), folder.display().to_string()]);
        }
        if let Some(user) = user.filter(|_| is_root()) {
            words.extend(["setpriv", "--init-groups", "--reuid", user, "--regid", user].map(Into::into));
        }
        words.push(program.into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().env("PATH", search_path()).env("LANG", "C.UTF-8").current_dir("/");
        command
    }

    pub(crate) fn has_user(&self, user: &str) -> bool {
        self.succeeds("id", &["-u", user])
    }

    /// The path of a program in this root.
    pub(crate) fn find(&self, program: &str) -> Option<String> {
        let path = search_path();
        path.split(':').map(|folder| format!("{folder}/{program}")).find(|path| self.outside(path.as_ref()).is_file())
    }

    /// Gives a folder and what is in it to the user.
    pub(crate) fn give(&self, folder: &Path, user: &str) -> Result<()> {
        let inside = self.inside(folder).display().to_string();
        if !self.succeeds("chown", &["-R", &format!("{user}:"), &inside]) {
            bail!("cannot give `{}` to the user `{user}`", folder.display());
        }
        Ok(())
    }

    fn succeeds(&self, program: &str, arguments: &[&str]) -> bool {
        let mut command = self.command(None, program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Debian keeps servers in sbin, which is not in a plain user's PATH.
fn search_path() -> String {
    let own = std::env::var("PATH").unwrap_or_default();
    format!("{own}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").trim_start_matches(':').to_owned()
}
