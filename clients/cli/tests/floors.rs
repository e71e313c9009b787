//! Imports go down only. The table under `# Layout` at the top of each crate lists its modules from the lowest floor up;
//! a module may name only those above it in the table, by their names, never through the crate's root.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, ItemMod, ItemUse, UseTree};

/// Every crate of the workspace that has more than one module, and its root file.
const CRATES: [&str; 9] = [
    "memory-store/seam/src/lib.rs",
    "kernels/src/lib.rs",
    "memory-store/src/lib.rs",
    "runtime/src/lib.rs",
    "encoder/src/lib.rs",
    "clients/rust/src/lib.rs",
    "server/src/lib.rs",
    "bench/src/lib.rs",
    "clients/cli/src/main.rs",
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Modules in the order of the layout table: lines `//! | `one`, `two` | idea |`.
fn floors(root: &str) -> Vec<String> {
    let layout = root.lines().skip_while(|line| *line != "//! # Layout");
    let rows = layout.filter_map(|line| line.strip_prefix("//! | "));
    let cells = rows.filter_map(|row| row.split('|').next());
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names.map(ToOwned::to_owned).collect()
}

/// Modules that the root declares.
fn declared(root: &str) -> BTreeSet<String> {
    let file = syn::parse_file(root).unwrap();
    let modules = file.items.iter().filter_map(|item| match item {
        syn::Item::Mod(module) if !is_test(&module.attrs) => Some(module.ident.to_string()),
        _ => None,
    });
    modules.collect()
}

/// Whether something is compiled for tests alone: those may look anywhere.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_cfg_test = attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|condition| condition == "test");
        is_cfg_test || attribute.path().is_ident("test")
    })
}

/// What the paths of one file name: module paths from the crate's root, without the root itself.
struct Names {
    /// The file's own module.
    module: Vec<String>,
    found: BTreeSet<Vec<String>>,
}

impl Names {
    /// Takes a path as written, if it begins at the crate's root or above the file's module.
    fn take(&mut self, path: &[String]) {
        let ups = path.iter().take_while(|segment| *segment == "super").count();
        let full = match path.first().map(String::as_str) {
            Some("crate") => path[1..].to_vec(),
            Some("super") if ups <= self.module.len() => {
                let mut full = self.module[..self.module.len() - ups].to_vec();
                full.extend_from_slice(&path[ups..]);
                full
            }
            _ => return,
        };
        self.found.insert(full);
    }

    fn take_tree(&mut self, before: &mut Vec<String>, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.take_tree(before, &path.tree);
                before.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.take_tree(before, tree)),
            UseTree::Name(name) => self.take(&[before.as_slice(), &[name.ident.to_string()]].concat()),
            UseTree::Rename(rename) => self.take(&[before.as_slice(), &[rename.ident.to_string()]].concat()),
            UseTree::Glob(_) => self.take(before),
        }
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if is_test(&module.attrs) {
            return;
        }
        self.module.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.take_tree(&mut Vec::new(), &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.take(&segments);
        visit::visit_path(self, path);
    }
}

/// Files below `folder`, with their modules; those of unit tests are left out.
fn files(folder: &Path, module: &[String], found: &mut Vec<(PathBuf, Vec<String>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if stem == "tests" {
            continue;
        }
        if path.is_dir() {
            files(&path, &[module, &[stem]].concat(), found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let is_own = ["mod", "lib", "main"].contains(&stem.as_str());
            let module = if is_own { module.to_vec() } else { [module, &[stem]].concat() };
            found.push((path, module));
        }
    }
}

/// What is wrong with the imports of one crate, and its arrows between modules.
fn check(root_file: &Path) -> (Vec<String>, BTreeMap<String, BTreeSet<String>>) {
    let root = fs::read_to_string(root_file).unwrap();
    let (floors, declared) = (floors(&root), declared(&root));
    let floor = |module: &str| floors.iter().position(|known| known == module);
    let mut wrong: Vec<String> = declared
        .iter()
        .filter(|module| floor(module).is_none())
        .map(|module| format!("`{module}` has no row in the table of the layout"))
        .collect();
    let gone = floors.iter().filter(|module| !declared.contains(*module));
    wrong.extend(gone.map(|module| format!("the table of the layout has `{module}`, which is no module")));
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut found = Vec::new();
    files(root_file.parent().unwrap(), &[], &mut found);
    for (path, module) in found {
        let Some(room) = module.first().filter(|room| declared.contains(*room)) else { continue };
        let parsed = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
        let mut names = Names { module: module.clone(), found: BTreeSet::new() };
        names.visit_file(&parsed);
        let shown = path.strip_prefix(root_file.parent().unwrap()).unwrap().display().to_string();
        for name in names.found {
            let Some(first) = name.first() else { continue };
            if first == room {
                continue;
            }
            if !declared.contains(first) {
                wrong.push(format!("{shown} imports `{first}` through the crate's root"));
                continue;
            }
            arrows.entry(room.clone()).or_default().insert(first.clone());
            if floor(first) >= floor(room) {
                wrong.push(format!("{shown} imports upwards: `{room}` from `{}`", name.join("::")));
            }
        }
    }
    (wrong, arrows)
}

#[test]
fn imports_go_down_only() {
    let mut all = Vec::new();
    for root in CRATES {
        let (wrong, arrows) = check(&workspace().join(root));
        let count: usize = arrows.values().map(BTreeSet::len).sum();
        println!("{root}: {} modules, {count} arrows, {} wrong", arrows.len().max(1), wrong.len());
        for (room, below) in &arrows {
            println!("    {room} -> {}", below.iter().cloned().collect::<Vec<_>>().join(" "));
        }
        all.extend(wrong.into_iter().map(|wrong| format!("{root}: {wrong}")));
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}
