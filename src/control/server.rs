//! The daemon's side of the control socket: who may connect, how many at once, one request and one reply each.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::client::SOCKET;
use super::protocol::{ErrorKind, Refusal, Reply, Request};
use super::wire::{MAX_REQUEST, WireError, read_frame_within, write_frame};
use crate::clock::{Clock, SystemClock};

/// Connections served at once; a `wait` holds one for as long as it waits.
const MOST_CONNECTIONS: usize = 64;
/// How long a peer may take to send its request or to take its reply: it must not hold a connection for nothing.
const PEER_PATIENCE: Duration = Duration::from_secs(30);

/// How long the end waits for replies that are being sent.
const LAST_REPLIES: Duration = Duration::from_secs(2);

/// Answers requests; called from a thread of the connection's own, so it may block.
pub trait Handler: Send + Sync + 'static {
    /// The reply to `request`.
    fn handle(&self, request: Request) -> Reply;

    /// The same for a peer that may go away while it waits: once `gone` says so, any reply will do.
    fn handle_while(&self, request: Request, gone: &dyn Fn() -> bool) -> Reply {
        let _nobody_waits_long = gone;
        self.handle(request)
    }
}

/// The listening socket. Dropped, it is removed and nobody connects any more; replies under way are sent first, within
/// bounds.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
    acceptor: Option<JoinHandle<()>>,
}

/// Binds STORE/control.sock. The caller holds the store, so a socket that is there belongs to a daemon that is gone.
///
/// # Errors
/// What the system said of the directory, the old socket or the new one.
pub fn serve(store: &Path, handler: Arc<dyn Handler>) -> io::Result<Server> {
    let path = store.join(SOCKET);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // sun_path holds 108 bytes, a store's path may be longer: bind through the directory's descriptor. The store is 0700, so nobody
    // else can connect between bind and chmod.
    let directory = File::open(store)?;
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    let stop = Arc::new(AtomicBool::new(false));
    let connections = Arc::new(AtomicUsize::new(0));
    let (stopped, count) = (Arc::clone(&stop), Arc::clone(&connections));
    let acceptor = std::thread::Builder::new().name("control".to_owned()).spawn(move || accept(&listener, &handler, &stopped, &count))?;
    Ok(Server { path, stop, connections, acceptor: Some(acceptor) })
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // A connection of our own wakes the acceptor.
        if let Some(parent) = self.path.parent()
            && let Ok(directory) = File::open(parent)
        {
            let _ = UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()));
        }
        let _ = fs::remove_file(&self.path);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        // The process may end with this: who was answered should get the answer.
        for _ in 0..LAST_REPLIES.as_millis() / 5 {
            if self.connections.load(Ordering::Acquire) == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn accept(listener: &UnixListener, handler: &Arc<dyn Handler>, stop: &AtomicBool, connections: &Arc<AtomicUsize>) {
    loop {
        let stream = match listener.accept() {
            _ if stop.load(Ordering::Acquire) => return,
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "control socket: a connection could not be accepted");
                // Out of descriptors, most likely: it would fail again at once.
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if connections.fetch_add(1, Ordering::AcqRel) >= MOST_CONNECTIONS {
            connections.fetch_sub(1, Ordering::AcqRel);
            refuse(&stream, ErrorKind::Temporary, format!("{MOST_CONNECTIONS} commands are being served already; try again"));
            continue;
        }
        let (handler, count) = (Arc::clone(handler), Arc::clone(connections));
        let served = std::thread::Builder::new().name("control-peer".to_owned()).spawn(move || {
            serve_peer(&stream, handler.as_ref());
            count.fetch_sub(1, Ordering::AcqRel);
        });
        if let Err(error) = served {
            connections.fetch_sub(1, Ordering::AcqRel);
            tracing::warn!(%error, "control socket: no thread for a connection");
        }
    }
}

fn serve_peer(stream: &UnixStream, handler: &dyn Handler) {
    let patient = stream.set_read_timeout(Some(PEER_PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PEER_PATIENCE)));
    if let Err(error) = patient {
        tracing::warn!(%error, "control socket: no time limit");
        return;
    }
    match getsockopt(stream, PeerCredentials) {
        Ok(peer) if may_connect(peer.uid(), nix::unistd::geteuid().as_raw()) => {}
        Ok(peer) => {
            let line = format!("uid {} may not command this daemon; only its user and root may", peer.uid());
            return refuse(stream, ErrorKind::Failed, line);
        }
        Err(error) => return refuse(stream, ErrorKind::Failed, format!("who is asking is not known: {error}")),
    }
    let mut patient = Patient { stream, until: SystemClock.instant() + PEER_PATIENCE };
    let reply = match read_frame_within::<Request>(&mut patient, MAX_REQUEST) {
        Ok(request) => handler.handle_while(request, &|| has_hung_up(stream)),
        // Somebody who only looks whether a daemon is there.
        Err(WireError::Ended) => return,
        Err(error) => {
            let line = format!("{error}; the command line and the daemon must be of one version: unmount and mount again");
            return refuse(stream, ErrorKind::Failed, line);
        }
    };
    send(stream, &reply);
}

/// Reads from a peer that has so long for all of its request: a byte now and then must not hold a connection.
struct Patient<'a> {
    stream: &'a UnixStream,
    until: Instant,
}

impl io::Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(SystemClock.instant());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        io::Read::read(&mut &*self.stream, buffer)
    }
}

/// Whether the peer has closed its end: a `wait` that was interrupted must not hold its connection until the verdict.
fn has_hung_up(stream: &UnixStream) -> bool {
    let mut ends = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let hung_up = |ends: &[PollFd<'_>]| ends.iter().any(|end| end.revents().is_some_and(|seen| seen.contains(PollFlags::POLLHUP)));
    poll(&mut ends, PollTimeout::ZERO).is_ok() && hung_up(&ends)
}

/// Root and the daemon's own user.
const fn may_connect(peer: u32, own: u32) -> bool {
    peer == 0 || peer == own
}

fn refuse(stream: &UnixStream, kind: ErrorKind, message: String) {
    send(stream, &Reply::Refused(Refusal { kind, message }));
}

fn send(stream: &UnixStream, reply: &Reply) {
    match write_frame(&mut &*stream, reply) {
        // The peer did not wait for its reply: its right.
        Ok(()) | Err(WireError::Io(_)) => {}
        Err(error) => {
            tracing::warn!(%error, "control socket: a reply could not be sent");
            let line = format!("the answer could not be sent: {error}; ask for less");
            let _ = write_frame(&mut &*stream, &Reply::Refused(Refusal { kind: ErrorKind::Failed, message: line }));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::io::{Read, Write};

    use super::super::wire::read_frame;
    use super::*;

    struct Echo;

    impl Handler for Echo {
        fn handle(&self, request: Request) -> Reply {
            Reply::Text(format!("{request:?}"))
        }
    }

    fn connect(store: &Path) -> UnixStream {
        UnixStream::connect(store.join(SOCKET)).unwrap()
    }

    #[test]
    fn a_request_gets_its_reply_and_a_dead_socket_is_replaced() {
        let store = tempfile::tempdir().unwrap();
        drop(UnixListener::bind(store.path().join(SOCKET)).unwrap());
        let server = serve(store.path(), Arc::new(Echo)).unwrap();
        let mode = fs::metadata(store.path().join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let mut stream = connect(store.path());
        write_frame(&mut stream, &Request::Abort).unwrap();
        assert_eq!(read_frame::<Reply>(&mut stream).unwrap(), Reply::Text("Abort".to_owned()));
        drop(server);
        assert!(!store.path().join(SOCKET).exists());
    }

    #[test]
    fn a_store_with_a_path_longer_than_a_socket_address_is_served() {
        let root = tempfile::tempdir().unwrap();
        let store = root.path().join("d".repeat(200));
        fs::create_dir(&store).unwrap();
        let _server = serve(&store, Arc::new(Echo)).unwrap();
        let directory = File::open(&store).unwrap();
        let mut stream = UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd())).unwrap();
        write_frame(&mut stream, &Request::Status).unwrap();
        assert_eq!(read_frame::<Reply>(&mut stream).unwrap(), Reply::Text("Status".to_owned()));
    }

    #[test]
    fn garbage_is_refused_and_the_next_peer_served() {
        let store = tempfile::tempdir().unwrap();
        let _server = serve(store.path(), Arc::new(Echo)).unwrap();
        let mut garbage = connect(store.path());
        garbage.write_all(&[3, 0, 0, 0, 0xff, 0xff, 0xff]).unwrap();
        let Reply::Refused(refusal) = read_frame::<Reply>(&mut garbage).unwrap() else { unreachable!("garbage was taken") };
        assert!(refusal.message.contains("must be of one version"), "{refusal}");
        drop(connect(store.path()));
        let mut stream = connect(store.path());
        write_frame(&mut stream, &Request::Ghosts).unwrap();
        assert_eq!(read_frame::<Reply>(&mut stream).unwrap(), Reply::Text("Ghosts".to_owned()));
    }

    #[test]
    fn a_request_is_short_and_comes_in_time() {
        let (peer, own) = UnixStream::pair().unwrap();
        let long = MAX_REQUEST + 1;
        (&peer).write_all(&long.to_le_bytes()).unwrap();
        let until = SystemClock.instant();
        let mut patient = Patient { stream: &own, until: until + PEER_PATIENCE };
        let refused = read_frame_within::<Request>(&mut patient, MAX_REQUEST).unwrap_err();
        assert_eq!(refused.to_string(), "a message of 1048577 bytes is over the limit of 1048576");
        // Bytes are there, the time is over.
        (&peer).write_all(&[0; 64]).unwrap();
        let mut late = Patient { stream: &own, until };
        assert_eq!(late.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn only_the_daemons_user_and_root_may_command_it() {
        assert!(may_connect(0, 1000) && may_connect(1000, 1000));
        assert!(!may_connect(1001, 1000));
    }
}
