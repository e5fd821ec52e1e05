//! `utf8`: the file is UTF-8.

use std::io::{self, Read as _};

use super::reader::FileReader;
use super::{FileCheck, Finding, Look};

pub(super) struct Utf8;

impl FileCheck for Utf8 {
    fn look(&self, file: &mut FileReader<'_>) -> io::Result<Look> {
        let mut buffer = vec![0; 64 << 10];
        let (mut held, mut lines, mut offset) = (0, 0u64, 0u64);
        loop {
            let n = file.read(buffer.get_mut(held..).unwrap_or_default())?;
            let bytes = buffer.get(..held + n).unwrap_or_default();
            let (good, broken) = match std::str::from_utf8(bytes) {
                Ok(_) => (bytes.len(), false),
                // A character may be cut by the end of the buffer, but not by the end of the file.
                Err(error) => (error.valid_up_to(), error.error_len().is_some() || n == 0),
            };
            let newlines = bytes.iter().take(good).filter(|byte| **byte == b'\n').count();
            lines += newlines as u64;
            if broken {
                let byte = bytes.get(good).copied().unwrap_or_default();
                let what = format!("byte {} of the file (0x{byte:02x}) is not UTF-8", offset + good as u64);
                return Ok(Look { findings: vec![Finding { line: lines + 1, what }], rows: Some(lines) });
            }
            if n == 0 {
                return Ok(Look { findings: Vec::new(), rows: Some(lines) });
            }
            held = bytes.len() - good;
            offset += good as u64;
            buffer.copy_within(good..good + held, 0);
        }
    }
}
