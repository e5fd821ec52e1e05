//! Frames on the control socket: a little-endian `u32` length, then that many bytes in the codec's form.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::codec::{self, CodecError};

/// The longest frame either side accepts: a diff of a million paths fits, a broken peer does not.
pub const MAX_FRAME: u32 = 64 << 20;

/// The longest request: a path and a message are all that is of any length in one.
pub const MAX_REQUEST: u32 = 1 << 20;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The peer ended the connection before a frame, or in the middle of one.
    #[error("the connection ended early")]
    Ended,
    /// The frame is longer than the reader takes.
    #[error("a message of {0} bytes is over the limit of {1}")]
    TooLong(u64, u32),
    /// The bytes are no message that this version knows.
    #[error("a message that this version of shadowfs does not know: {0}")]
    Unknown(#[from] CodecError),
}

/// Writes one message and flushes it.
pub fn write_frame<T: Serialize>(writer: &mut impl Write, message: &T) -> Result<(), WireError> {
    let bytes = codec::encode(message);
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= MAX_FRAME);
    let length = length.ok_or(WireError::TooLong(bytes.len() as u64, MAX_FRAME))?;
    writer.write_all(&length.to_le_bytes())?;
    writer.write_all(&bytes)?;
    writer.flush()?;
    Ok(())
}

/// Reads one message of up to `MAX_FRAME` bytes.
pub fn read_frame<T: DeserializeOwned>(reader: &mut impl Read) -> Result<T, WireError> {
    read_frame_within(reader, MAX_FRAME)
}

/// Reads one message of up to `most` bytes.
pub fn read_frame_within<T: DeserializeOwned>(reader: &mut impl Read, most: u32) -> Result<T, WireError> {
    let mut length = [0; 4];
    read_exact(reader, &mut length)?;
    let length = u32::from_le_bytes(length);
    if length > most {
        return Err(WireError::TooLong(u64::from(length), most));
    }
    // Grown as bytes arrive: a peer that announces much and sends little costs nothing.
    let mut bytes = Vec::new();
    reader.take(u64::from(length)).read_to_end(&mut bytes)?;
    if bytes.len() < length as usize {
        return Err(WireError::Ended);
    }
    Ok(codec::decode(&bytes)?)
}

fn read_exact(reader: &mut impl Read, buffer: &mut [u8]) -> Result<(), WireError> {
    reader.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => WireError::Ended,
        _ => WireError::Io(error),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use crate::clock::Timestamp;
    use crate::control::protocol::{AttemptDoc, ChangeDoc, ChangeKind, Reply, ShowDoc, VersionDoc};
    use crate::ids::VersionId;
    use crate::store::record::{AttemptRecord, ChangeCounts, Outcome, Reason, VersionState};

    fn show() -> Reply {
        let version = VersionDoc {
            version: VersionId(7),
            state: VersionState::Ghost,
            parent: Some(VersionId(6)),
            digest: None,
            message: Some("m".to_owned()),
            opened_at: "2026-01-01T00:00:00Z".to_owned(),
            sealed_at: None,
            decided_at: None,
            promoted_at: None,
            changes: ChangeCounts::default(),
            writers: Vec::new(),
            reason: Some(Reason::Conflict { with: VersionId(6), paths: vec!["a".to_owned()] }),
            passed: false,
            held: false,
            pinned: false,
            rebased_from: None,
            restored_from: None,
        };
        let attempt = AttemptRecord {
            version: VersionId(7),
            check: "rows".to_owned(),
            attempt: 2,
            started_at: Timestamp { secs: 1, nanos: 2 },
            took: std::time::Duration::from_millis(3),
            outcome: Outcome::Failed { code: Some(4) },
            rejects: true,
            metrics: vec![("rows".to_owned(), 1.5)],
        };
        let changes = vec![ChangeDoc::new(b"\xffx", ChangeKind::Added, None, Some(3), true)];
        Reply::Show(Box::new(ShowDoc { version, attempts: vec![AttemptDoc::new(&attempt)], changes }))
    }

    #[test]
    fn frames_round_trip_one_after_the_other() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &show()).unwrap();
        write_frame(&mut bytes, &Reply::Nothing).unwrap();
        let mut reader = bytes.as_slice();
        assert_eq!(read_frame::<Reply>(&mut reader).unwrap(), show());
        assert_eq!(read_frame::<Reply>(&mut reader).unwrap(), Reply::Nothing);
        assert!(matches!(read_frame::<Reply>(&mut reader), Err(WireError::Ended)));
    }

    #[test]
    fn a_frame_cut_anywhere_is_an_error() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &show()).unwrap();
        for length in 0..bytes.len() {
            assert!(matches!(read_frame::<Reply>(&mut &bytes[..length]), Err(WireError::Ended)), "{length}");
        }
    }

    #[test]
    fn what_a_broken_peer_sends_is_refused() {
        assert!(matches!(read_frame::<Reply>(&mut &u32::MAX.to_le_bytes()[..]), Err(WireError::TooLong(..))));
        let mut bytes = 3_u32.to_le_bytes().to_vec();
        bytes.extend([0xff, 0xff, 0xff]);
        assert!(matches!(read_frame::<Reply>(&mut bytes.as_slice()), Err(WireError::Unknown(_))));
    }
}
