//! Frames of the control socket, in both directions: what a peer sends is refused or understood, and understood means that it comes out
//! the same again.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use shadowfs::control::protocol::{ErrorKind, Refusal, Reply, Request, TagDoc, VersionName};
use shadowfs::control::wire::{read_frame, write_frame};
use shadowfs::ids::VersionId;

pub fn run(bytes: &[u8]) {
    let Some((side, rest)) = bytes.split_first() else { return };
    // A frame as it comes, with a length of the peer's; and one whose length is right, so that what is inside is reached.
    let mut framed = u32::try_from(rest.len()).unwrap().to_le_bytes().to_vec();
    framed.extend_from_slice(rest);
    for bytes in [rest, &framed] {
        match side % 2 {
            0 => round::<Request>(bytes),
            _ => round::<Reply>(bytes),
        }
    }
}

fn round<T: Serialize + DeserializeOwned + Debug>(mut bytes: &[u8]) {
    let Ok(message) = read_frame::<T>(&mut bytes) else { return };
    let mut written = Vec::new();
    write_frame(&mut written, &message).unwrap();
    let again: T = read_frame(&mut written.as_slice()).unwrap();
    // By what is written: a number that is none does not equal itself.
    let mut twice = Vec::new();
    write_frame(&mut twice, &again).unwrap();
    assert_eq!(written, twice, "{message:?}");
}

pub fn seeds() -> Vec<Vec<u8>> {
    let version = || VersionName::Number(VersionId(7));
    let requests = [
        Request::Status,
        Request::Log { limit: Some(9) },
        Request::Diff { from: version(), to: VersionName::Tag("v1".to_owned()), below: Some(b"a/b".to_vec()) },
        Request::Commit { message: Some("m".to_owned()) },
        Request::Wait { version: None, promoted: true },
        Request::Check { version: VersionName::Staging, check: Some("rows".to_owned()) },
        Request::Tag { name: "v1".to_owned(), version: version(), force: true },
        Request::Find { version: VersionName::Valid },
    ];
    let replies = [
        Reply::Nothing,
        Reply::Text("text".to_owned()),
        Reply::Lineage(vec!["{}".to_owned()]),
        Reply::Refused(Refusal { kind: ErrorKind::Temporary, message: "later".to_owned() }),
        Reply::Tags(vec![TagDoc { name: "v1".to_owned(), version: VersionId(1) }]),
    ];
    let seed = |side: u8, frame: Vec<u8>| [&[side][..], &frame[4..]].concat();
    let requests = requests.iter().map(|request| {
        let mut frame = Vec::new();
        write_frame(&mut frame, request).unwrap();
        seed(0, frame)
    });
    let replies = replies.iter().map(|reply| {
        let mut frame = Vec::new();
        write_frame(&mut frame, reply).unwrap();
        seed(1, frame)
    });
    requests.chain(replies).collect()
}
