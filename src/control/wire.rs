//! Frames on the control socket: a little-endian `u32` length, then that many bytes in the codec's form.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest frame either side accepts: a diff of a million paths fits, a broken peer does not.
pub const MAX_FRAME: u32 = 64 << 20;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The peer ended the connection before a frame, or in the middle of one.
    #[error("the connection ended early")]
    Ended,
    /// The frame is longer than `MAX_FRAME`.
    #[error("a message of {0} bytes is over the limit of {MAX_FRAME}")]
    TooLong(u64),
    /// The bytes are no message that this version knows.
    #[error("a message that this version of shadowfs does not know: {0}")]
    Unknown(String),
}

/// Writes one message and flushes it.
pub fn write_frame<T: Serialize>(writer: &mut impl Write, message: &T) -> Result<(), WireError> {
    let bytes = bincode::serde::encode_to_vec(message, bincode::config::standard()).map_err(|error| WireError::Unknown(error.to_string()))?;
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= MAX_FRAME);
    let length = length.ok_or(WireError::TooLong(bytes.len() as u64))?;
    writer.write_all(&length.to_le_bytes())?;
    writer.write_all(&bytes)?;
    writer.flush()?;
    Ok(())
}

/// Reads one message.
pub fn read_frame<T: DeserializeOwned>(reader: &mut impl Read) -> Result<T, WireError> {
    let mut length = [0; 4];
    read_exact(reader, &mut length)?;
    let length = u32::from_le_bytes(length);
    if length > MAX_FRAME {
        return Err(WireError::TooLong(u64::from(length)));
    }
    // Grown as bytes arrive: a peer that announces much and sends little costs nothing.
    let mut bytes = Vec::new();
    reader.take(u64::from(length)).read_to_end(&mut bytes)?;
    if bytes.len() < length as usize {
        return Err(WireError::Ended);
    }
    let (message, _) =
        bincode::serde::decode_from_slice(&bytes, bincode::config::standard()).map_err(|error| WireError::Unknown(error.to_string()))?;
    Ok(message)
}

fn read_exact(reader: &mut impl Read, buffer: &mut [u8]) -> Result<(), WireError> {
    reader.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => WireError::Ended,
        _ => WireError::Io(error),
    })
}
