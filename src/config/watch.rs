//! Tells when the configuration file may have changed on disk.
