//! What a power cut leaves of a volume.
//!
//! Steps: decide which name changes reached the disk, walk what can be reached from the root by
//! those names, and for each file decide which of its changes reached the disk.

use std::collections::BTreeMap;

use super::fault::CrashMode;
use super::volume::{Change, Unsynced, Volume, kept};
use crate::env::chance::Chance;
use crate::env::content::Content;
use crate::env::tree::{FileNode, Id, Names, Node, ROOT, Tree};

/// What a disk writes at once.
const SECTOR_BYTES: u64 = 512;

/// A power cut: the mode, and its choices that concern the whole disk.
struct Cut<'c> {
    mode: CrashMode,
    /// In mode [`CrashMode::Prefix`], the point before which all is kept; `None`: one point for
    /// each file and directory.
    before: Option<u64>,
    /// In mode [`CrashMode::Torn`], the order of the write that is torn.
    torn: Option<u64>,
    chance: &'c mut Chance,
}

/// The tree that is found after a power cut.
pub(super) fn crash(volume: &Volume, mode: CrashMode, chance: &mut Chance) -> Tree {
    let mut cut = Cut::new(volume, mode, chance);
    let names = cut.names(volume);
    let mut nodes = BTreeMap::new();
    let mut open = vec![ROOT];
    while let Some(dir) = open.pop() {
        let Some(found) = names.get(&dir).or_else(|| volume.tree.names(dir).ok()) else { continue };
        nodes.insert(dir, Node::Directory(found.clone()));
        for id in found.values() {
            match volume.tree.node(*id) {
                Some(Node::File(file)) => {
                    let content = match volume.files.get(id) {
                        Some(unsynced) => cut.content(unsynced),
                        None => file.content.clone(),
                    };
                    let file = FileNode { content, linked: true, ..FileNode::default() };
                    nodes.insert(*id, Node::File(file));
                }
                Some(Node::Directory(_)) => open.push(*id),
                None => {}
            }
        }
    }
    Tree::with_nodes(nodes, volume.tree.next())
}

impl<'c> Cut<'c> {
    fn new(volume: &Volume, mode: CrashMode, chance: &'c mut Chance) -> Self {
        let mut cut = Self { mode, before: None, torn: None, chance };
        if mode == CrashMode::Prefix && cut.chance.coin() {
            cut.before = Some(cut.chance.below(volume.order() + 1));
        }
        if mode == CrashMode::Torn {
            let writes: Vec<u64> = volume
                .files
                .values()
                .flat_map(|file| &file.pending)
                .filter(|(_, change)| matches!(change, Change::Write { .. }))
                .map(|(order, _)| *order)
                .collect();
            cut.torn = writes.get(cut.index_below(writes.len())).copied();
        }
        cut
    }

    /// The names found in the directories that were changed.
    fn names(&mut self, volume: &Volume) -> BTreeMap<Id, Names> {
        let mut names = volume.names.clone();
        let changes = &volume.name_changes;
        let mut points = BTreeMap::new();
        let kept = kept(changes, |change| match self.mode {
            CrashMode::Nothing => false,
            CrashMode::All | CrashMode::LengthWithoutData => true,
            CrashMode::Prefix => match self.before {
                Some(before) => change.order < before,
                None => {
                    let dir = change.dir();
                    let point =
                        points.entry(dir).or_insert_with(|| self.chance.below(volume.order() + 1));
                    change.order < *point
                }
            },
            CrashMode::Subset | CrashMode::Torn | CrashMode::JunkSectors => self.chance.coin(),
        });
        for (change, _) in changes.iter().zip(kept).filter(|(_, kept)| *kept) {
            change.apply(&mut names);
        }
        names
    }

    /// The content found in a file.
    fn content(&mut self, file: &Unsynced) -> Content {
        let mut content = file.durable.clone();
        let point = match (self.mode, self.before) {
            (CrashMode::Prefix, None) => self.index_below(file.pending.len() + 1),
            _ => usize::MAX,
        };
        for (order, change) in file.pending.iter().take(point) {
            let whole = match self.mode {
                CrashMode::Nothing | CrashMode::LengthWithoutData => false,
                CrashMode::All => true,
                CrashMode::Prefix => self.before.is_none_or(|before| *order < before),
                CrashMode::Torn if self.torn == Some(*order) => false,
                CrashMode::JunkSectors if matches!(change, Change::Write { .. }) => false,
                CrashMode::Subset | CrashMode::Torn | CrashMode::JunkSectors => self.chance.coin(),
            };
            if whole {
                change.apply(&mut content);
            } else {
                self.spoil(&mut content, *order, change);
            }
        }
        content
    }

    /// Applies what is left of a change that did not reach the disk as a whole.
    fn spoil(&mut self, content: &mut Content, order: u64, change: &Change) {
        match (self.mode, change) {
            (CrashMode::LengthWithoutData, Change::Length(len)) => content.set_len(*len),
            (CrashMode::LengthWithoutData, Change::Write { offset, bytes }) => {
                content.set_len(content.len().max(offset + bytes.len() as u64));
            }
            (CrashMode::Torn, Change::Write { offset, bytes }) if self.torn == Some(order) => {
                self.tear(content, *offset, bytes);
            }
            (CrashMode::JunkSectors, Change::Write { offset, bytes }) => {
                self.junk_sectors(content, *offset, bytes);
            }
            _ => {}
        }
    }

    /// Writes up to a random byte or sector, and junk behind it or nothing.
    fn tear(&mut self, content: &mut Content, offset: u64, bytes: &[u8]) {
        let mut at = self.index_below(bytes.len() + 1);
        if self.chance.coin() {
            at = at.saturating_sub(into_sector(offset + at as u64));
        }
        let (head, tail) = bytes.split_at(at);
        content.write(head, offset);
        if self.chance.coin() {
            content.write(&self.junk(tail.len()), offset + at as u64);
        }
    }

    /// Leaves each sector's part of a write old, new or junk.
    fn junk_sectors(&mut self, content: &mut Content, offset: u64, bytes: &[u8]) {
        let (mut at, mut left) = (offset, bytes);
        while !left.is_empty() {
            let room = usize::try_from(SECTOR_BYTES).unwrap_or(usize::MAX) - into_sector(at);
            let (part, tail) = left.split_at(left.len().min(room));
            match self.chance.below(3) {
                0 => {}
                1 => content.write(part, at),
                _ => content.write(&self.junk(part.len()), at),
            }
            at += part.len() as u64;
            left = tail;
        }
    }

    fn junk(&mut self, len: usize) -> Vec<u8> {
        let mut junk = vec![0; len];
        self.chance.fill(&mut junk);
        junk
    }

    fn index_below(&mut self, bound: usize) -> usize {
        usize::try_from(self.chance.below(bound as u64)).unwrap_or_default()
    }
}

/// How far an offset is into its sector.
fn into_sector(offset: u64) -> usize {
    usize::try_from(offset % SECTOR_BYTES).unwrap_or_default()
}
