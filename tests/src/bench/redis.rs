//! What Redis says of itself.
use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A value of `INFO`.
pub(super) async fn info(port: u16, name: &str) -> Result<String> {
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.context("asking Redis")?);
    stream.write_all(b"INFO all\r\n").await?;
    let mut length = String::new();
    stream.read_line(&mut length).await?;
    let length = length.trim().strip_prefix('$').and_then(|length| length.parse().ok());
    let mut text = vec![0; length.context("Redis does not answer INFO")?];
    stream.read_exact(&mut text).await?;
    let text = String::from_utf8_lossy(&text);
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(value.with_context(|| format!("INFO has no `{name}`"))?.to_owned())
}

/// How many scripts it has run: each is a call of a service's.
pub(super) async fn scripts(port: u16) -> Result<u64> {
    // calls=5,usec=70,…; absent before the first
    let stats = info(port, "cmdstat_evalsha").await.unwrap_or_default();
    let calls = stats.split(',').find_map(|stat| stat.strip_prefix("calls="));
    Ok(calls.map_or(Ok(0), str::parse)?)
}

/// All the memory it has given out, in bytes.
pub(super) async fn used_memory(port: u16) -> Result<i64> {
    Ok(info(port, "used_memory").await?.parse()?)
}
