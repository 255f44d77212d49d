//! Dependencies point downwards: no imports form a cycle of modules, and few form a cycle of files inside a module.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{UseTree, Visibility};

/// The cycles that remain in the directories of `src`: the most files of each, the largest first.
const REMAINING: [(&str, &[usize]); 9] = [
    ("catalog", &[4, 2]),
    ("cli", &[3]),
    ("config", &[2]),
    ("fetch", &[4]),
    ("ffi", &[2]),
    ("mirror", &[3]),
    ("mount", &[2]),
    ("store", &[3]),
    ("torrent", &[5, 2]),
];

type Edges = BTreeMap<String, BTreeSet<String>>;

/// The paths in one file, without those of its tests.
#[derive(Default)]
struct SourceFile {
    /// Imported paths by the name in this file, and whether the name is exported again.
    imports: BTreeMap<String, (String, bool)>,
    paths: BTreeSet<String>,
    words: BTreeSet<String>,
}

impl SourceFile {
    fn import(&mut self, tree: &UseTree, above: &str, is_exported: bool) {
        let (name, path) = match tree {
            UseTree::Path(part) => {
                return self.import(&part.tree, &format!("{above}{}::", part.ident), is_exported);
            }
            UseTree::Group(group) => {
                return group.items.iter().for_each(|item| self.import(item, above, is_exported));
            }
            UseTree::Glob(_) => (format!("{above}*"), above.to_owned()),
            UseTree::Name(name) if name.ident == "self" => {
                (above.rsplit("::").nth(1).unwrap().to_owned(), above.to_owned())
            }
            UseTree::Name(name) => (name.ident.to_string(), format!("{above}{}", name.ident)),
            UseTree::Rename(new) => (new.rename.to_string(), format!("{above}{}", new.ident)),
        };
        self.imports.insert(name, (path.trim_end_matches("::").to_owned(), is_exported));
    }
}

impl<'a> Visit<'a> for SourceFile {
    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        if item.attrs.is_empty() {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        self.import(&item.tree, "", !matches!(item.vis, Visibility::Inherited));
    }

    fn visit_visibility(&mut self, _: &'a Visibility) {}

    fn visit_path(&mut self, path: &'a syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        self.paths.extend((names.len() > 1).then(|| names.join("::")));
        self.words.extend(names);
        visit::visit_path(self, path);
    }
}

/// All files of `src` without tests, by the path of their module.
fn read(dir: &Path, module: &str, files: &mut BTreeMap<String, SourceFile>) {
    for path in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let name =
            if matches!(stem, "mod" | "lib") { module.to_owned() } else { format!("{module}::{stem}") };
        if stem.ends_with("tests") || stem == "main" {
        } else if path.is_dir() {
            read(&path, &name, files);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            files.entry(name).or_default().visit_file(&syn::parse_file(&text).unwrap());
        }
    }
}

/// A path in a module as one from the crate's root; none if it leads out of the crate, or to the file itself.
fn absolute(path: &str, module: &str, files: &BTreeMap<String, SourceFile>) -> Option<String> {
    let (first, rest) = path.split_once("::").unwrap_or((path, ""));
    let below = |module: &str| format!("{module}::{rest}");
    match first {
        "crate" => Some(path.to_owned()),
        "self" => Some(below(module)),
        "super" if rest.starts_with("super") => absolute(rest, module.rsplit_once("::")?.0, files),
        "super" => Some(below(module.rsplit_once("::")?.0)),
        child if files.contains_key(&format!("{module}::{child}")) => Some(format!("{module}::{path}")),
        name => match &files.get(module)?.imports.get(name)?.0 {
            of if of.split("::").next() == Some(name) => None,
            of => absolute(of, module, files).map(|of| below(&of)),
        },
    }
}

/// The file that defines what a path names. Names that a file exports again are followed.
fn definition(path: &str, files: &BTreeMap<String, SourceFile>) -> Option<String> {
    let path = path.trim_end_matches("::");
    let ends = path.match_indices("::").map(|(end, _)| end).chain([path.len()]);
    let module = ends.map(|end| &path[..end]).filter(|module| files.contains_key(*module)).last()?;
    let rest = path[module.len()..].trim_start_matches("::");
    let (name, after) = rest.split_once("::").unwrap_or((rest, ""));
    match files[module].imports.get(name) {
        Some((of, true)) => definition(&format!("{}::{after}", absolute(of, module, files)?), files),
        _ => Some(module.to_owned()),
    }
}

/// Sets of names of which each leads to each other one.
fn cycles(edges: &Edges) -> BTreeSet<BTreeSet<String>> {
    let reached = |from: &String| {
        let (mut seen, mut todo) = (BTreeSet::new(), vec![from]);
        while let Some(next) = todo.pop() {
            todo.extend(edges.get(next).into_iter().flatten().filter(|to| seen.insert((*to).clone())));
        }
        seen
    };
    let all: Edges = edges.keys().map(|from| (from.clone(), reached(from))).collect();
    let returns = |to: &String, name: &String| all.get(to).is_some_and(|seen| seen.contains(name));
    let cycle = |(name, seen): (&String, &BTreeSet<String>)| {
        seen.iter().filter(|to| returns(to, name)).cloned().collect()
    };
    all.iter().map(cycle).filter(|set: &BTreeSet<String>| set.len() > 1).collect()
}

#[test]
fn imports_point_downwards() {
    let (mut files, mut edges, mut modules) = (BTreeMap::new(), Edges::new(), Edges::new());
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "crate", &mut files);
    let top = |name: &str| name.split("::").nth(1).unwrap_or_default().to_owned();
    for (module, file) in files.iter().filter(|(module, _)| *module != "crate") {
        let used =
            file.imports.iter().filter(|(name, (_, exported))| !exported || file.words.contains(*name));
        let paths = used.map(|(_, (path, _))| path).chain(&file.paths);
        let absolute = paths.filter_map(|path| absolute(path, module, &files));
        for to in
            absolute.filter_map(|path| definition(&path, &files)).filter(|to| to != module && to != "crate")
        {
            if top(&to) != top(module) {
                modules.entry(top(module)).or_default().insert(top(&to));
            }
            edges.entry(module.clone()).or_default().insert(to);
        }
    }
    assert!(
        modules["node"].contains("store") && edges["crate::cli::get"].contains("crate::node::get::request")
    );
    assert_eq!(cycles(&modules), BTreeSet::new(), "modules import each other");
    let mut found: BTreeMap<String, Vec<BTreeSet<String>>> = BTreeMap::new();
    for cycle in cycles(&edges) {
        found.entry(top(cycle.first().unwrap())).or_default().push(cycle);
    }
    for (module, mut cycles) in found {
        cycles.sort_by_key(|cycle| std::cmp::Reverse(cycle.len()));
        let most = REMAINING.iter().find(|(of, _)| *of == module).map_or(&[][..], |(_, most)| *most);
        let are_few =
            cycles.len() <= most.len() && cycles.iter().zip(most).all(|(cycle, most)| cycle.len() <= *most);
        assert!(are_few, "files import each other; move what they share below them: {cycles:?}");
    }
}
