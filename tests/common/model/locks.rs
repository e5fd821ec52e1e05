//! Locks as Linux keeps them: whole files (flock), ranges of a process (POSIX), ranges of an open file (OFD). The last two get into each
//! other's way; the first does not know of them.

/// Which locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// flock(2).
    Whole(Claim),
    /// `F_SETLK`.
    OfProcess { claim: Claim, from: u64, len: u64 },
    /// `F_OFD_SETLK`.
    OfFile { claim: Claim, from: u64, len: u64 },
}

/// What is asked for. Nobody waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    Shared,
    Exclusive,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Process,
    Slot(usize),
}

#[derive(Clone, Copy, Debug)]
struct Held {
    node: usize,
    owner: Owner,
    from: u64,
    to: u64,
    exclusive: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Locks {
    ranges: Vec<Held>,
    whole: Vec<Held>,
}

impl Locks {
    /// A slot's file is closed: what it holds goes, and what the process holds on the file.
    pub(super) fn close(&mut self, slot: usize, node: usize) {
        let stays = |held: &Held| held.owner != Owner::Slot(slot) && (held.owner != Owner::Process || held.node != node);
        self.ranges.retain(stays);
        self.whole.retain(stays);
    }

    /// Some descriptor of each file that is `closed` was closed.
    pub(super) fn forget_process(&mut self, closed: impl Fn(usize) -> bool) {
        self.ranges.retain(|held| held.owner != Owner::Process || !closed(held.node));
    }

    /// `writable`: whether the slot may write.
    pub(super) fn claim(&mut self, slot: usize, node: usize, writable: bool, lock: Lock) -> Result<(), i32> {
        let (claim, owner, from, len) = match lock {
            Lock::Whole(claim) => return self.claim_whole(slot, node, claim),
            Lock::OfProcess { claim, from, len } => (claim, Owner::Process, from, len),
            Lock::OfFile { claim, from, len } => (claim, Owner::Slot(slot), from, len),
        };
        if claim == Claim::Exclusive && !writable {
            return Err(libc::EBADF);
        }
        let to = if len == 0 { u64::MAX } else { from + len };
        let meets = |held: &Held| held.node == node && held.from < to && from < held.to;
        let exclusive = claim == Claim::Exclusive;
        let blocks = |held: &Held| meets(held) && held.owner != owner && (held.exclusive || exclusive);
        if claim != Claim::None && self.ranges.iter().any(blocks) {
            return Err(libc::EAGAIN);
        }
        let mut kept = Vec::new();
        for held in self.ranges.drain(..) {
            if held.owner != owner || !meets(&held) {
                kept.push(held);
                continue;
            }
            kept.extend((held.from < from).then_some(Held { to: from, ..held }));
            kept.extend((held.to > to).then_some(Held { from: to, ..held }));
        }
        kept.extend((claim != Claim::None).then_some(Held { node, owner, from, to, exclusive }));
        self.ranges = kept;
        Ok(())
    }

    fn claim_whole(&mut self, slot: usize, node: usize, claim: Claim) -> Result<(), i32> {
        let owner = Owner::Slot(slot);
        let exclusive = claim == Claim::Exclusive;
        let own = |held: &Held| held.owner == owner;
        if claim != Claim::None && self.whole.iter().any(|held| own(held) && held.exclusive == exclusive) {
            return Ok(());
        }
        // The change of a lock is no single step: the old one is gone, whatever comes of the new one.
        self.whole.retain(|held| !own(held));
        if claim != Claim::None && self.whole.iter().any(|held| held.node == node && (held.exclusive || exclusive)) {
            return Err(libc::EAGAIN);
        }
        self.whole.extend((claim != Claim::None).then_some(Held { node, owner, from: 0, to: u64::MAX, exclusive }));
        Ok(())
    }
}
