//! Directories and files in RAM: the state that a running process sees.
//!
//! [`super::Memory`] is this and no more; [`super::Simulated`] keeps beside it what is durable.
//! A file lives while a name or an open handle refers to it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use super::NameKind;
use super::content::Content;

/// The number of a file or directory, never used twice.
pub(super) type Id = u64;

/// The names in a directory, shared until one side changes them.
pub(super) type Names = Arc<BTreeMap<Arc<str>, Id>>;

/// The directory that always exists.
pub(super) const ROOT: Id = 0;

/// One file or directory.
#[derive(Debug, Clone)]
pub(super) enum Node {
    File(FileNode),
    Directory(Names),
}

/// A file: its bytes, and who still refers to it.
#[derive(Debug, Clone, Default)]
pub(super) struct FileNode {
    pub(super) content: Content,
    pub(super) linked: bool,
    pub(super) handles: u32,
    /// Space taken ahead of the content.
    pub(super) reserved: u64,
}

/// All files and directories.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    nodes: BTreeMap<Id, Node>,
    next: Id,
}

impl Tree {
    /// A tree with an empty root.
    pub(super) fn new() -> Self {
        Self { nodes: BTreeMap::from([(ROOT, Node::Directory(Names::default()))]), next: ROOT + 1 }
    }

    /// A tree of given nodes, which include the root; new numbers start after all of them.
    pub(super) fn with_nodes(nodes: BTreeMap<Id, Node>, next: Id) -> Self {
        Self { nodes, next }
    }

    /// The number that the next file or directory gets.
    pub(super) const fn next(&self) -> Id {
        self.next
    }

    pub(super) fn node(&self, id: Id) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// The directory of this path.
    pub(super) fn directory(&self, path: &Path) -> io::Result<Id> {
        let mut dir = ROOT;
        for part in path.components() {
            let Some(name) = part_name(part)? else { continue };
            dir = self.look(dir, name)?.ok_or(io::ErrorKind::NotFound)?;
            self.names(dir)?;
        }
        Ok(dir)
    }

    /// The directory in which the last name of this path stands, and that name.
    pub(super) fn place<'p>(&self, path: &'p Path) -> io::Result<(Id, &'p str)> {
        let part = path.components().next_back().ok_or(io::ErrorKind::InvalidInput)?;
        let name = part_name(part)?.ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.directory(path.parent().unwrap_or(Path::new("")))?, name))
    }

    /// The file of this path.
    pub(super) fn find_file(&self, path: &Path) -> io::Result<Id> {
        let (dir, name) = self.place(path)?;
        let id = self.look(dir, name)?.ok_or(io::ErrorKind::NotFound)?;
        self.file(id)?;
        Ok(id)
    }

    /// What a name in a directory stands for.
    pub(super) fn look(&self, dir: Id, name: &str) -> io::Result<Option<Id>> {
        Ok(self.names(dir)?.get(name).copied())
    }

    pub(super) fn names(&self, dir: Id) -> io::Result<&Names> {
        match self.nodes.get(&dir) {
            Some(Node::Directory(names)) => Ok(names),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn names_mut(&mut self, dir: Id) -> io::Result<&mut BTreeMap<Arc<str>, Id>> {
        match self.nodes.get_mut(&dir) {
            Some(Node::Directory(names)) => Ok(Arc::make_mut(names)),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn file(&self, id: Id) -> io::Result<&FileNode> {
        match self.nodes.get(&id) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Directory(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn file_mut(&mut self, id: Id) -> io::Result<&mut FileNode> {
        match self.nodes.get_mut(&id) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Directory(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// A new, empty file under a name that is free.
    pub(super) fn create_file(&mut self, dir: Id, name: &str) -> io::Result<Id> {
        self.add(dir, name, Node::File(FileNode { linked: true, ..FileNode::default() }))
    }

    /// A new, empty directory under a name that is free.
    pub(super) fn create_directory(&mut self, dir: Id, name: &str) -> io::Result<Id> {
        self.add(dir, name, Node::Directory(Names::default()))
    }

    fn add(&mut self, dir: Id, name: &str, node: Node) -> io::Result<Id> {
        let id = self.next;
        let names = self.names_mut(dir)?;
        if names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        names.insert(name.into(), id);
        self.nodes.insert(id, node);
        self.next += 1;
        Ok(id)
    }

    /// Gives a file another name, replacing a file that has it; answers with the replaced one.
    pub(super) fn rename(&mut self, from: (Id, &str), to: (Id, &str)) -> io::Result<Option<Id>> {
        let id = self.look(from.0, from.1)?.ok_or(io::ErrorKind::NotFound)?;
        self.file(id)?;
        let replaced = self.look(to.0, to.1)?;
        if replaced == Some(id) {
            return Ok(None);
        }
        if let Some(replaced) = replaced {
            self.file_mut(replaced)?.linked = false;
        }
        self.names_mut(to.0)?.insert(to.1.into(), id);
        self.names_mut(from.0)?.remove(from.1);
        Ok(replaced)
    }

    /// Takes a name away, of a file or of an empty directory; answers with what it stood for.
    pub(super) fn remove(&mut self, dir: Id, name: &str) -> io::Result<Id> {
        let id = self.look(dir, name)?.ok_or(io::ErrorKind::NotFound)?;
        match self.nodes.get_mut(&id) {
            Some(Node::File(file)) => file.linked = false,
            Some(Node::Directory(names)) if !names.is_empty() => {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            _ => {}
        }
        self.names_mut(dir)?.remove(name);
        Ok(id)
    }

    /// Forgets a file or directory that nothing refers to any more.
    pub(super) fn forget(&mut self, id: Id) {
        let unused = match self.nodes.get(&id) {
            Some(Node::File(file)) => !file.linked && file.handles == 0,
            Some(Node::Directory(_)) => true,
            None => false,
        };
        if unused && id != ROOT {
            self.nodes.remove(&id);
        }
    }

    /// Everything below a directory as (directory, name), the deepest first.
    pub(super) fn below(&self, dir: Id) -> Vec<(Id, Arc<str>)> {
        let mut found = Vec::new();
        let mut open = vec![dir];
        while let Some(dir) = open.pop() {
            for (name, id) in self.names(dir).ok().into_iter().flat_map(|names| names.iter()) {
                found.push((dir, Arc::clone(name)));
                if matches!(self.nodes.get(id), Some(Node::Directory(_))) {
                    open.push(*id);
                }
            }
        }
        found.reverse();
        found
    }

    /// The names in a directory, sorted.
    pub(super) fn list(&self, dir: Id) -> io::Result<Vec<(String, NameKind)>> {
        let kind = |id: &Id| match self.nodes.get(id) {
            Some(Node::File(file)) => NameKind::File(file.content.len()),
            Some(Node::Directory(_)) => NameKind::Directory,
            None => NameKind::Other,
        };
        Ok(self.names(dir)?.iter().map(|(name, id)| (name.to_string(), kind(id))).collect())
    }

    /// The lengths of all files that a name or a handle refers to.
    pub(super) fn used_bytes(&self) -> u64 {
        let used = self.nodes.values().map(|node| match node {
            Node::File(file) if file.linked || file.handles > 0 => {
                file.content.len().max(file.reserved)
            }
            _ => 0,
        });
        used.fold(0, u64::saturating_add)
    }

    /// Notes that somebody opened a file.
    pub(super) fn hold(&mut self, id: Id) -> io::Result<()> {
        self.file_mut(id)?.handles += 1;
        Ok(())
    }

    /// Notes that somebody closed a file.
    pub(super) fn release(&mut self, id: Id) {
        if let Ok(file) = self.file_mut(id) {
            file.handles = file.handles.saturating_sub(1);
        }
    }

    /// After the end of all processes nothing is open.
    pub(super) fn release_all(&mut self) {
        for node in self.nodes.values_mut() {
            if let Node::File(file) = node {
                file.handles = 0;
            }
        }
    }
}

/// The name of a part of a path; `None` for a root or a dot.
fn part_name(part: Component<'_>) -> io::Result<Option<&str>> {
    match part {
        Component::Normal(name) => Ok(Some(name.to_str().ok_or(io::ErrorKind::InvalidInput)?)),
        Component::RootDir | Component::CurDir => Ok(None),
        Component::ParentDir | Component::Prefix(_) => Err(io::ErrorKind::InvalidInput.into()),
    }
}
