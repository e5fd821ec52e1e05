//! The one form in which records are written: a format byte, then bincode 2. Everything that decodes goes through here.
//!
//! bincode is frozen upstream, so nothing else in the crate names it: another encoding is another format byte.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The format byte that leads every record.
const FORMAT: u8 = 1;
/// The most that decoding one record may claim, so that a damaged length can't exhaust the memory.
pub const DECODE_LIMIT: usize = 64 << 20;

/// Bytes that are not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// There is nothing.
    #[error("an empty record")]
    Empty,
    /// A format that this program does not know.
    #[error("a record of unknown format {0}")]
    Format(u8),
    /// The bytes do not decode.
    #[error("an undecodable record ({0})")]
    Undecodable(String),
    /// More bytes than the record has.
    #[error("a record with {0} bytes too many")]
    Trailing(usize),
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<DECODE_LIMIT>()
}

/// The bytes of a record.
///
/// # Panics
/// If the type can't be written without a schema (a map or sequence without a length, `serde(flatten)`): a
/// mistake in the type's definition that the first test of it shows, never a matter of the value.
#[must_use]
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.push(FORMAT);
    encode_after(value, &mut bytes);
    bytes
}

#[expect(
    clippy::panic,
    reason = "a type that bincode can't write is a mistake in the program; storing nothing in its place would lose data"
)]
fn encode_after<T: Serialize + ?Sized>(value: &T, bytes: &mut Vec<u8>) {
    if let Err(error) = bincode::serde::encode_into_std_write(value, bytes, bincode::config::standard()) {
        panic!("{} can't be encoded: {error}", std::any::type_name::<T>());
    }
}

/// The record that the bytes hold, all of them.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (format, rest) = bytes.split_first().ok_or(CodecError::Empty)?;
    if *format != FORMAT {
        return Err(CodecError::Format(*format));
    }
    let (value, used) = bincode::serde::decode_from_slice(rest, config()).map_err(|error| CodecError::Undecodable(error.to_string()))?;
    match rest.len() - used {
        0 => Ok(value),
        more => Err(CodecError::Trailing(more)),
    }
}

/// For `#[serde(with = "codec::bytes")]`: a `Vec<u8>` as one run of bytes. The form is the same as without, the speed is not.
pub mod bytes {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Run;

    /// Writes them.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    /// Reads them.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        Run::deserialize(deserializer).map(|run| run.0)
    }
}

/// For `#[serde(with = "codec::optional_bytes")]`: the same for an `Option<Vec<u8>>`.
pub mod optional_bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{BorrowedRun, Run};

    /// Writes them.
    pub fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
        bytes.as_deref().map(BorrowedRun).serialize(serializer)
    }

    /// Reads them.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
        Ok(Option::<Run>::deserialize(deserializer)?.map(|run| run.0))
    }
}

/// Bytes written in one go.
struct BorrowedRun<'a>(&'a [u8]);

impl Serialize for BorrowedRun<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// Bytes read in one go.
struct Run(Vec<u8>);

impl<'de> serde::Deserialize<'de> for Run {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(RunVisitor).map(Self)
    }
}

struct RunVisitor;

impl<'de> serde::de::Visitor<'de> for RunVisitor {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u8>, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = seq.next_element()? {
            bytes.push(byte);
        }
        Ok(bytes)
    }
}
