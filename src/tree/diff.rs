//! The difference of two trees. Two cursors walk side by side; where both stand at one shared node, both step over it, so the
//! cost follows the change, whatever the shapes that edits gave the trees.

use std::cmp::Ordering;
use std::sync::Arc;

use super::key::{Key, Value};
use super::node::{At, Body, Node};
use super::nodes::Nodes;
use super::{Tree, TreeError};

/// An entry that differs. `old` and `new` are never equal; at least one is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its key.
    pub key: Key,
    /// The value in the older tree.
    pub old: Option<Value>,
    /// The value in the newer tree.
    pub new: Option<Value>,
}

/// Entries that differ, in ascending order of their keys. It ends after an error.
pub struct Diff {
    nodes: Arc<Nodes>,
    old: Cursor,
    new: Cursor,
    failed: Option<TreeError>,
}

impl std::fmt::Debug for Diff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Diff").finish_non_exhaustive()
    }
}

impl Tree {
    /// What is different in `newer`.
    #[must_use]
    pub fn diff(&self, newer: &Self) -> Diff {
        let mut diff = Diff { nodes: Arc::clone(&self.nodes), old: Cursor::default(), new: Cursor::default(), failed: None };
        if !self.root.is_same(&newer.root) {
            let roots = self.root.load(&self.nodes).and_then(|old| Ok((old, newer.root.load(&newer.nodes)?)));
            match roots {
                Ok((old, new)) => {
                    diff.old.stack.push(Frame { node: old, at: 0 });
                    diff.new.stack.push(Frame { node: new, at: 0 });
                }
                Err(error) => diff.failed = Some(error),
            }
        }
        diff
    }
}

/// A place in a tree: at an entry, or before a child that has not been entered.
#[derive(Default)]
struct Cursor {
    stack: Vec<Frame>,
}

struct Frame {
    node: Arc<Node>,
    at: usize,
}

/// What a cursor stands at.
enum Item<'a> {
    Entry(&'a Key, &'a Value),
    Below { at: &'a At, from: &'a Key, level: u8 },
    End,
}

/// What to do next.
enum Step {
    SkipBoth,
    EnterOld,
    EnterNew,
    EnterBoth,
    Removed,
    Added,
    Both,
    End,
}

impl Cursor {
    /// Climbs out of nodes whose end is reached.
    fn climb(&mut self) {
        while self.stack.last().is_some_and(|frame| frame.at >= frame.node.items()) {
            self.stack.pop();
        }
    }

    fn item(&self) -> Item<'_> {
        let Some(frame) = self.stack.last() else { return Item::End };
        match &frame.node.body {
            Body::Leaf(leaf) => leaf.entries.get(frame.at).map_or(Item::End, |(key, value)| Item::Entry(key, value)),
            Body::Inner(inner) => inner.children.get(frame.at).map_or(Item::End, |child| Item::Below {
                at: &child.at,
                from: &child.from,
                level: frame.node.level - 1,
            }),
        }
    }

    fn skip(&mut self) {
        if let Some(frame) = self.stack.last_mut() {
            frame.at += 1;
        }
    }

    /// Goes into the child that it stands at.
    fn enter(&mut self, nodes: &Nodes) -> Result<(), TreeError> {
        let Some(frame) = self.stack.last_mut() else { return Ok(()) };
        let Body::Inner(inner) = &frame.node.body else { return Ok(()) };
        let Some(child) = inner.children.get(frame.at) else { return Ok(()) };
        let node = child.load(nodes, frame.node.level)?;
        frame.at += 1;
        self.stack.push(Frame { node, at: 0 });
        Ok(())
    }

    /// The entry that it stands at; then it stands at the next.
    fn take(&mut self) -> Option<(Key, Value)> {
        let Item::Entry(key, value) = self.item() else { return None };
        let entry = (key.clone(), value.clone());
        self.skip();
        Some(entry)
    }
}

/// Chooses by what both cursors stand at. Whoever is behind moves; only what lies wholly before the other's lower bound counts as
/// removed or added without a look at the other.
fn choose(old: &Item<'_>, new: &Item<'_>) -> Step {
    match (old, new) {
        (Item::End, Item::End) => Step::End,
        (Item::Entry(..), Item::End) => Step::Removed,
        (Item::End, Item::Entry(..)) => Step::Added,
        (Item::Below { .. }, Item::End) => Step::EnterOld,
        (Item::End, Item::Below { .. }) => Step::EnterNew,
        (Item::Entry(a, _), Item::Entry(b, _)) => match a.cmp(b) {
            Ordering::Less => Step::Removed,
            Ordering::Greater => Step::Added,
            Ordering::Equal => Step::Both,
        },
        (Item::Entry(key, _), Item::Below { from, .. }) if key < from => Step::Removed,
        (Item::Entry(..), Item::Below { .. }) => Step::EnterNew,
        (Item::Below { from, .. }, Item::Entry(key, _)) if key < from => Step::Added,
        (Item::Below { .. }, Item::Entry(..)) => Step::EnterOld,
        (Item::Below { at: a, from: from_a, level: level_a }, Item::Below { at: b, from: from_b, level: level_b }) => {
            if a.is_same(b) {
                return Step::SkipBoth;
            }
            match from_a.cmp(from_b).then(level_b.cmp(level_a)) {
                Ordering::Less => Step::EnterOld,
                Ordering::Greater => Step::EnterNew,
                Ordering::Equal => Step::EnterBoth,
            }
        }
    }
}

impl Diff {
    /// Takes one step; the change that it met, if any.
    fn step(&mut self, step: &Step) -> Result<Option<Change>, TreeError> {
        match step {
            Step::SkipBoth => {
                self.old.skip();
                self.new.skip();
            }
            Step::EnterOld => self.old.enter(&self.nodes)?,
            Step::EnterNew => self.new.enter(&self.nodes)?,
            Step::EnterBoth => {
                self.old.enter(&self.nodes)?;
                self.new.enter(&self.nodes)?;
            }
            Step::Removed => return Ok(self.old.take().map(|(key, old)| Change { key, old: Some(old), new: None })),
            Step::Added => return Ok(self.new.take().map(|(key, new)| Change { key, old: None, new: Some(new) })),
            Step::Both => {
                if let (Some((key, old)), Some((_, new))) = (self.old.take(), self.new.take())
                    && old != new
                {
                    return Ok(Some(Change { key, old: Some(old), new: Some(new) }));
                }
            }
            Step::End => {}
        }
        Ok(None)
    }
}

impl Iterator for Diff {
    type Item = Result<Change, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        loop {
            self.old.climb();
            self.new.climb();
            let step = choose(&self.old.item(), &self.new.item());
            if matches!(step, Step::End) {
                return None;
            }
            match self.step(&step) {
                Ok(None) => {}
                Ok(Some(change)) => return Some(Ok(change)),
                Err(error) => {
                    self.old.stack.clear();
                    self.new.stack.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}
