//! The directories and files of one revision, as a fixed numbered list: node 0 is the revision's directory.

use std::collections::HashMap;

use crate::model::FileEntry;

/// A directory or a file of a revision.
#[derive(Debug)]
pub struct ListingNode {
    /// The name in its directory; empty for node 0.
    pub name: Box<str>,
    /// The directory that contains it; node 0 is its own parent.
    pub parent: u32,
    /// Directory or file.
    pub kind: NodeKind,
}

/// The kind of a node.
#[derive(Debug)]
pub enum NodeKind {
    /// A directory.
    Dir {
        /// The nodes in it, sorted by name.
        children: Vec<u32>,
        /// How many of the children are directories.
        subdirs: u32,
    },
    /// A file, by its index in the manifest.
    File(u32),
}

/// All nodes of a revision. They depend only on the manifest's files, so their numbers never change.
#[derive(Debug)]
pub struct Nodes(Vec<ListingNode>);

impl Nodes {
    /// Builds the list from the files of a checked manifest, in which no path occurs twice or leads through a file.
    pub fn new(files: &[FileEntry]) -> Self {
        let mut nodes = vec![ListingNode {
            name: "".into(),
            parent: 0,
            kind: NodeKind::Dir { children: Vec::new(), subdirs: 0 },
        }];
        let mut dirs: HashMap<&str, u32> = HashMap::from([("", 0)]);
        for (index, file) in files.iter().enumerate() {
            let mut parent = 0;
            for (slash, _) in file.path.match_indices('/') {
                let path = &file.path[..slash];
                parent = *dirs.entry(path).or_insert_with(|| {
                    let kind = NodeKind::Dir { children: Vec::new(), subdirs: 0 };
                    add(&mut nodes, parent, last_component(path), kind)
                });
            }
            add(&mut nodes, parent, last_component(&file.path), NodeKind::File(index as u32));
        }
        sort(&mut nodes);
        Self(nodes)
    }

    /// Number of nodes.
    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// The node with that number.
    pub fn get(&self, index: u64) -> Option<&ListingNode> {
        self.0.get(usize::try_from(index).ok()?)
    }

    /// Finds a name in a directory.
    pub fn child(&self, dir: &ListingNode, name: &str) -> Option<u32> {
        let NodeKind::Dir { children, .. } = &dir.kind else { return None };
        let at = children.binary_search_by(|&c| (*self.0[c as usize].name).cmp(name)).ok()?;
        Some(children[at])
    }
}

fn last_component(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn add(nodes: &mut Vec<ListingNode>, parent: u32, name: &str, kind: NodeKind) -> u32 {
    let index = nodes.len() as u32;
    let is_dir = matches!(kind, NodeKind::Dir { .. });
    nodes.push(ListingNode { name: name.into(), parent, kind });
    if let NodeKind::Dir { children, subdirs } = &mut nodes[parent as usize].kind {
        children.push(index);
        *subdirs += u32::from(is_dir);
    }
    index
}

fn sort(nodes: &mut [ListingNode]) {
    for index in 0..nodes.len() {
        let NodeKind::Dir { children, .. } = &mut nodes[index].kind else { continue };
        let mut sorted = std::mem::take(children);
        sorted.sort_unstable_by(|&a, &b| nodes[a as usize].name.cmp(&nodes[b as usize].name));
        if let NodeKind::Dir { children, .. } = &mut nodes[index].kind {
            *children = sorted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(paths: &[&str]) -> Nodes {
        let files: Vec<FileEntry> = paths.iter().map(|p| FileEntry::new(*p, 1, None, None)).collect();
        Nodes::new(&files)
    }

    fn names(nodes: &Nodes, dir: u32) -> Vec<&str> {
        let NodeKind::Dir { children, .. } = &nodes.get(dir.into()).unwrap().kind else {
            panic!("not a directory")
        };
        children.iter().map(|&c| &*nodes.get(c.into()).unwrap().name).collect()
    }

    #[test]
    fn directories_appear_once_and_are_sorted() {
        // Canonical order sorts by components, so `a/…` comes before `a.txt` though '.' < '/'.
        let nodes = nodes(&["a/b/x", "a/b/y", "a/c", "a.txt", "z"]);
        assert_eq!(names(&nodes, 0), ["a", "a.txt", "z"]);
        let root = nodes.get(0).unwrap();
        assert!(matches!(root.kind, NodeKind::Dir { subdirs: 1, .. }));
        let a = nodes.child(root, "a").unwrap();
        assert_eq!(names(&nodes, a), ["b", "c"]);
        let b = nodes.child(nodes.get(a.into()).unwrap(), "b").unwrap();
        assert_eq!(names(&nodes, b), ["x", "y"]);
        assert_eq!(nodes.get(b.into()).unwrap().parent, a);
        assert!(nodes.child(root, "b").is_none());
        assert_eq!(nodes.len(), 8);
    }

    #[test]
    fn a_file_is_not_a_directory() {
        let nodes = nodes(&["f"]);
        let f = nodes.child(nodes.get(0).unwrap(), "f").unwrap();
        assert!(matches!(nodes.get(f.into()).unwrap().kind, NodeKind::File(0)));
        assert!(nodes.child(nodes.get(f.into()).unwrap(), "f").is_none());
    }
}
