//! The allocator's share of the daemon's memory.

/// The heaps that the C library may have. It makes up to eight a core, one for each thread that meets another one in its own, and what
/// one thread puts into a cache and another throws out leaves holes in all of them.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;

/// Bounds the number of heaps. To be called before there are threads.
pub fn few_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number in the C library, under that library's own lock. Refused, everything stays as it was.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}
