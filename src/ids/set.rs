//! A set of numbers of one kind. Numbers are given out one after the other, so a bit a number is all it takes.

use std::collections::BTreeMap;
use std::marker::PhantomData;

const WORDS: usize = 128;
const BITS: u64 = WORDS as u64 * 64;

/// A set of identifiers, a bit each: a sweep over millions of them stays small.
#[derive(Clone, Debug)]
pub struct IdSet<T> {
    chunks: BTreeMap<u64, Box<[u64; WORDS]>>,
    len: u64,
    kind: PhantomData<T>,
}

impl<T> Default for IdSet<T> {
    fn default() -> Self {
        Self { chunks: BTreeMap::new(), len: 0, kind: PhantomData }
    }
}

impl<T: Into<u64>> IdSet<T> {
    /// Puts it in; false if it was there.
    pub fn insert(&mut self, id: T) -> bool {
        let (chunk, word, bit) = place(id.into());
        let Some(word) = self.chunks.entry(chunk).or_insert_with(|| Box::new([0; WORDS])).get_mut(word) else { return false };
        let new = *word & bit == 0;
        *word |= bit;
        self.len += u64::from(new);
        new
    }

    /// Whether it is there.
    pub fn contains(&self, id: T) -> bool {
        let (chunk, word, bit) = place(id.into());
        self.chunks.get(&chunk).and_then(|words| words.get(word)).is_some_and(|word| word & bit != 0)
    }

    /// How many there are that none of `others` has.
    #[must_use]
    pub fn count_outside(&self, others: &[&Self]) -> u64 {
        let outside = self.chunks.iter().map(|(chunk, words)| {
            let others: Vec<_> = others.iter().filter_map(|other| other.chunks.get(chunk)).collect();
            let left = words.iter().enumerate().map(|(at, word)| others.iter().fold(*word, |left, other| left & !other[at]));
            left.map(|word| u64::from(word.count_ones())).sum::<u64>()
        });
        outside.sum()
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T: Into<u64>> Extend<T> for IdSet<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, ids: I) {
        for id in ids {
            self.insert(id);
        }
    }
}

const fn place(id: u64) -> (u64, usize, u64) {
    ((id / BITS), (id % BITS / 64) as usize, 1 << (id % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ids::NodeId;

    #[test]
    fn it_holds_what_a_plain_set_holds() {
        let mut set = IdSet::default();
        let mut plain = BTreeSet::new();
        for n in 0..40_000_u64 {
            let id = NodeId(n.wrapping_mul(n) % 30_011);
            assert_eq!(set.insert(id), plain.insert(id));
        }
        set.insert(NodeId(u64::MAX));
        assert_eq!(set.len(), plain.len() as u64 + 1);
        assert!((0..31_000).map(NodeId).all(|id| set.contains(id) == plain.contains(&id)));
        let mut odd = IdSet::default();
        odd.extend((0..40_000).filter(|n| n % 2 == 1).map(NodeId));
        assert_eq!(set.count_outside(&[&odd]), plain.iter().filter(|id| id.0 % 2 == 0).count() as u64 + 1);
        assert_eq!(set.count_outside(&[&odd, &set]), 0);
        assert!(set.contains(NodeId(u64::MAX)) && !set.contains(NodeId(u64::MAX - 1)));
    }
}
