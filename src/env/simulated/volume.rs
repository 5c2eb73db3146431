//! A tree of files beside what of it is durable.
//!
//! Invariants: a file or directory without an entry here is durable as it is; lengths and names
//! are pending like data; a name change is applied whole or not at all, and never without the
//! earlier pending changes of the same names. No node is forgotten, for a crash may need it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::env::content::Content;
use crate::env::tree::{Id, Names, Tree};

/// A change of a file that no sync has made durable.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Write { offset: u64, bytes: Arc<[u8]> },
    Length(u64),
}

impl Change {
    /// Does it.
    pub(super) fn apply(&self, content: &mut Content) {
        match self {
            Self::Write { offset, bytes } => content.write(bytes, *offset),
            Self::Length(len) => content.set_len(*len),
        }
    }
}

/// A file whose durable content may differ from what a process reads.
#[derive(Debug, Clone)]
pub(super) struct Unsynced {
    pub(super) durable: Content,
    /// The changes since, each with its place in the order of all changes.
    pub(super) pending: Vec<(u64, Change)>,
    /// A failed sync dropped changes, so durable plus pending is not live.
    lost: bool,
}

/// A name in a directory.
pub(super) type Place = (Id, Arc<str>);

/// A change of names that no sync has made durable.
#[derive(Debug, Clone)]
pub(super) struct NameChange {
    /// Its place in the order of all changes.
    pub(super) order: u64,
    id: Id,
    /// The name that ends to stand for the file, in a removal or a rename.
    from: Option<Place>,
    /// The name that stands for it from now on, in a creation or a rename.
    to: Option<Place>,
}

impl NameChange {
    fn places(&self) -> impl Iterator<Item = &Place> {
        self.from.iter().chain(&self.to)
    }

    /// The directory that decides about the change.
    pub(super) fn dir(&self) -> Id {
        self.to.as_ref().or(self.from.as_ref()).map_or(0, |place| place.0)
    }

    fn touches(&self, dir: Id) -> bool {
        self.places().any(|place| place.0 == dir)
    }

    /// Does it, unless the old name no longer stands for the file.
    pub(super) fn apply(&self, names: &mut BTreeMap<Id, Names>) {
        if let Some((dir, name)) = &self.from {
            let Some(old) = names.get_mut(dir).map(Arc::make_mut) else { return };
            if old.get(name) != Some(&self.id) {
                return;
            }
            old.remove(name);
        }
        if let Some((dir, name)) = &self.to {
            Arc::make_mut(names.entry(*dir).or_default()).insert(Arc::clone(name), self.id);
        }
    }
}

/// The live tree, and the way back to the durable one.
#[derive(Debug, Clone)]
pub(super) struct Volume {
    pub(super) tree: Tree,
    pub(super) files: BTreeMap<Id, Unsynced>,
    /// The durable names of the directories that were changed since.
    pub(super) names: BTreeMap<Id, Names>,
    pub(super) name_changes: Vec<NameChange>,
    order: u64,
}

impl Volume {
    /// A volume that is durable as it is.
    pub(super) const fn new(tree: Tree) -> Self {
        Self {
            tree,
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            name_changes: Vec::new(),
            order: 0,
        }
    }

    /// How many changes there were; all orders are below.
    pub(super) const fn order(&self) -> u64 {
        self.order
    }

    pub(super) fn create_file(&mut self, dir: Id, name: &str) -> io::Result<Id> {
        self.remember_names(dir)?;
        let id = self.tree.create_file(dir, name)?;
        self.change_names(id, None, Some((dir, name.into())));
        Ok(id)
    }

    pub(super) fn create_directory(&mut self, dir: Id, name: &str) -> io::Result<Id> {
        self.remember_names(dir)?;
        let id = self.tree.create_directory(dir, name)?;
        self.change_names(id, None, Some((dir, name.into())));
        Ok(id)
    }

    pub(super) fn rename(&mut self, from: (Id, &str), to: (Id, &str)) -> io::Result<()> {
        self.remember_names(from.0)?;
        self.remember_names(to.0)?;
        let id = self.tree.look(from.0, from.1)?.ok_or(io::ErrorKind::NotFound)?;
        if self.tree.look(to.0, to.1)? == Some(id) {
            return Ok(());
        }
        self.tree.rename(from, to)?;
        self.change_names(id, Some((from.0, from.1.into())), Some((to.0, to.1.into())));
        Ok(())
    }

    pub(super) fn remove(&mut self, dir: Id, name: &str) -> io::Result<()> {
        self.remember_names(dir)?;
        let id = self.tree.remove(dir, name)?;
        self.change_names(id, Some((dir, name.into())), None);
        Ok(())
    }

    pub(super) fn write(&mut self, id: Id, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change_file(id, Change::Write { offset, bytes: bytes.into() })
    }

    pub(super) fn set_len(&mut self, id: Id, len: u64) -> io::Result<()> {
        self.change_file(id, Change::Length(len))
    }

    /// Makes a file's pending changes durable.
    pub(super) fn sync_file(&mut self, id: Id) {
        let Some(file) = self.files.get_mut(&id) else { return };
        if file.lost {
            for (_, change) in std::mem::take(&mut file.pending) {
                change.apply(&mut file.durable);
            }
        } else {
            self.files.remove(&id);
        }
    }

    /// Marks a file's pages clean without writing them.
    pub(super) fn lose_file(&mut self, id: Id) {
        if let Some(file) = self.files.get_mut(&id) {
            file.lost |= !file.pending.is_empty();
            file.pending.clear();
        }
    }

    /// Makes a directory's pending names durable.
    pub(super) fn sync_names(&mut self, dir: Id) {
        let kept = kept(&self.name_changes, |change| change.touches(dir));
        let mut rest = Vec::new();
        for (change, kept) in std::mem::take(&mut self.name_changes).into_iter().zip(kept) {
            if kept {
                change.apply(&mut self.names);
            } else {
                rest.push(change);
            }
        }
        let (tree, changes) = (&self.tree, &rest);
        self.names.retain(|dir, names| {
            changes.iter().any(|change| change.touches(*dir))
                || tree.names(*dir).is_ok_and(|live| live != names)
        });
        self.name_changes = rest;
    }

    /// Changes the bytes of a file both live and durable, as damage does.
    pub(super) fn damage(&mut self, id: Id, change: impl Fn(&mut Content)) -> io::Result<()> {
        change(&mut self.tree.file_mut(id)?.content);
        if let Some(file) = self.files.get_mut(&id) {
            change(&mut file.durable);
        }
        Ok(())
    }

    /// The file of this path; a missing one is created, durable at once.
    pub(super) fn find_or_plant(&mut self, path: &Path) -> io::Result<Id> {
        let (dir, name) = self.tree.place(path)?;
        if let Some(id) = self.tree.look(dir, name)? {
            return Ok(id);
        }
        let id = self.tree.create_file(dir, name)?;
        if let Some(names) = self.names.get_mut(&dir) {
            Arc::make_mut(names).insert(name.into(), id);
        }
        Ok(id)
    }

    fn change_file(&mut self, id: Id, change: Change) -> io::Result<()> {
        let content = &mut self.tree.file_mut(id)?.content;
        let file = self.files.entry(id).or_insert_with(|| Unsynced {
            durable: content.clone(),
            pending: Vec::new(),
            lost: false,
        });
        change.apply(content);
        file.pending.push((self.order, change));
        self.order += 1;
        Ok(())
    }

    /// Keeps the durable names of a directory that is about to change.
    fn remember_names(&mut self, dir: Id) -> io::Result<()> {
        let live = self.tree.names(dir)?;
        self.names.entry(dir).or_insert_with(|| Arc::clone(live));
        Ok(())
    }

    fn change_names(&mut self, id: Id, from: Option<Place>, to: Option<Place>) {
        self.name_changes.push(NameChange { order: self.order, id, from, to });
        self.order += 1;
    }
}

/// Which changes are kept when these are chosen: they, and all earlier ones of the same names.
/// Otherwise a name could be reused by a change that is kept while the rename that freed it is
/// not, and the renamed file would be under neither name.
pub(super) fn kept(
    changes: &[NameChange],
    mut chosen: impl FnMut(&NameChange) -> bool,
) -> Vec<bool> {
    let mut forced: BTreeSet<&Place> = BTreeSet::new();
    let mut kept: Vec<bool> = changes
        .iter()
        .rev()
        .map(|change| {
            let keep = chosen(change) || change.places().any(|place| forced.contains(place));
            if keep {
                forced.extend(change.places());
            }
            keep
        })
        .collect();
    kept.reverse();
    kept
}
