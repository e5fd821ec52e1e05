//! Typed requests and replies between the command line and a daemon, over a unix socket.

pub mod client;
pub mod protocol;
pub mod server;
pub mod upkeep;
pub mod wire;
