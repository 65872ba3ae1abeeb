//! An event, or another text, as stored: form 1, compressed where that saves something.

use std::cell::RefCell;

use crate::redis_link::StoreError;

/// Form 1, as it is.
const RAW: &[u8] = b"1r";
/// Form 1, zstd.
const ZSTD: &[u8] = b"1z";
/// Below this, compression saves less than it costs.
const WORTH_BYTES: usize = 512;
/// Without entropy coding of literals, which costs more than all else and saves a fifth of such small texts: an event is
/// stored once per acceptance, on the hot path.
const LEVEL: i32 = -1;
/// No event is larger than this unpacked, whatever a stored value claims.
const MAX_BYTES: usize = 64 * 1024 * 1024;

thread_local! {
    /// Its tables cost more to set up than an event to compress.
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = RefCell::new(zstd::bulk::Compressor::new(LEVEL).ok());
}

/// `event` as stored.
pub(crate) fn pack(event: &[u8]) -> Vec<u8> {
    if event.len() >= WORTH_BYTES
        && let Some(compressed) = COMPRESSOR.with_borrow_mut(|compressor| compressor.as_mut()?.compress(event).ok())
        && compressed.len() < event.len()
    {
        return [ZSTD, &compressed].concat();
    }
    [RAW, event].concat()
}

/// The event that was stored.
pub(crate) fn unpack(stored: &[u8]) -> Result<Vec<u8>, StoreError> {
    let odd = || StoreError::Odd("a stored event of a form that this version does not know".to_owned());
    match stored.split_at_checked(2) {
        Some((RAW, event)) => Ok(event.to_vec()),
        Some((ZSTD, compressed)) => {
            let size = zstd::zstd_safe::get_frame_content_size(compressed)
                .ok()
                .flatten()
                .and_then(|n| usize::try_from(n).ok());
            let size = size.filter(|size| *size <= MAX_BYTES).ok_or_else(odd)?;
            zstd::bulk::decompress(compressed, size).map_err(|_| odd())
        }
        _ => Err(odd()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_comes_back_as_it_was() {
        for event in [&b"{}"[..], &b"{\"a\":\"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\"}".repeat(40)] {
            let stored = pack(event);
            assert!(stored.len() <= event.len() + 2);
            assert_eq!(unpack(&stored).unwrap(), event);
        }
        assert!(unpack(b"2zx").is_err() && unpack(b"").is_err());
    }
}
