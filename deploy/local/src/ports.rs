//! Free ports, and who holds a taken one.
use anyhow::{Context, Result};
use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Below the range that outgoing connections take theirs from (32768 on Linux): a port stays free over a restart.
const RANGE: Range<u16> = 15_000..32_000;
const TRIES: usize = 1_000;

/// Given out by this process: two callers never get the same.
static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A port that nobody listens on, given to one caller only.
pub fn free_port() -> Result<u16> {
    Ok(free_ports(1)?.start)
}

/// So many of them next to each other.
pub fn free_ports(count: u16) -> Result<Range<u16>> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    let free = (0..TRIES)
        .map(|_| rand::random_range(RANGE.start..RANGE.end - count))
        .map(|first| first..first + count)
        .find(|ports| ports.clone().all(|port| !given.contains(&port) && is_free(port)));
    let free = free.with_context(|| format!("no {count} free ports together between 15000 and 32000"))?;
    given.extend(free.clone());
    Ok(free)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

/// What keeps us from listening on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A process, where we may see which.
    Process(u32, String),
    /// A process of another user.
    Unknown,
    /// The outgoing connection, ended less than a minute ago, of somebody who was given this port for it: happens
    /// above 32767.
    EndedConnection,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process(pid, name) => write!(f, "pid {pid} ({name})"),
            Self::Unknown => write!(f, "a process of another user"),
            Self::EndedConnection => write!(f, "a connection that just ended, for a minute at most"),
        }
    }
}

/// Who keeps us from listening on a port, if anybody.
pub fn holder_of(port: u16) -> Option<Holder> {
    if is_free(port) {
        return None;
    }
    let sockets = sockets_at(port);
    if let Some(pid) = sockets.iter().find_map(|socket| owner_of(&socket.inode)) {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        return Some(Holder::Process(pid, name.trim().into()));
    }
    let has_ended = !sockets.is_empty() && sockets.iter().all(|socket| socket.inode == NOBODYS);
    Some(if has_ended { Holder::EndedConnection } else { Holder::Unknown })
}

/// A socket's state and inode, from /proc/net/tcp (proc(5)).
struct Socket {
    state: String,
    inode: String,
}

const LISTEN: &str = "0A";
/// The inode of a connection that no process has open any more, while it ends and for a minute after that.
const NOBODYS: &str = "0";

/// The sockets with this port on our side, those that listen first.
fn sockets_at(port: u16) -> Vec<Socket> {
    let ending = format!(":{port:04X}");
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    let mut sockets: Vec<Socket> = lines
        .filter_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [_, local, _, state, _, _, _, _, _, inode, ..] if local.ends_with(&ending) => {
                Some(Socket { state: state.into(), inode: inode.into() })
            }
            _ => None,
        })
        .collect();
    sockets.sort_by_key(|socket| socket.state != LISTEN);
    sockets
}

fn owner_of(inode: &str) -> Option<u32> {
    let socket = PathBuf::from(format!("socket:[{inode}]"));
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let files = std::fs::read_dir(entry.path().join("fd")).ok()?;
        files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|to| to == socket)).then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_next_to_each_other_are_one_callers_too() {
        let blocks: Vec<_> = (0..500).map(|_| free_ports(11).unwrap()).collect();
        let different: HashSet<u16> = blocks.into_iter().flatten().collect();
        assert_eq!(different.len(), 500 * 11);
    }

    #[test]
    fn a_taken_port_names_its_holder() {
        let port = free_port().unwrap();
        assert_eq!(holder_of(port), None);
        let _held = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(matches!(holder_of(port), Some(Holder::Process(pid, _)) if pid == std::process::id()));
    }

    #[test]
    fn a_port_that_a_connection_went_out_from_is_taken_for_a_while() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port().unwrap())).unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let port = client.local_addr().unwrap().port();
        let server = listener.accept().unwrap();
        drop(client); // who closes first keeps the port
        drop(server);
        assert_eq!(holder_of(port), Some(Holder::EndedConnection));
    }
}
