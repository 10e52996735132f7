//! The files of a crate, and which of them imports from which.

use std::collections::{BTreeMap, HashMap};

use super::Texts;
use super::source::{self, NamedPath, Source};

/// A module's path from the root of its crate.
type ModulePath = Vec<String>;

/// Re-exports of re-exports that are followed. A name that leads in a circle ends here.
const REEXPORTS_MAX: usize = 16;

/// By file: the files that it imports from, with the line of the first import.
pub(super) type Imports = BTreeMap<String, BTreeMap<String, usize>>;

/// Where a path leads.
enum ImportTarget {
    Module(ModulePath),
    /// Something that this file defines.
    File(String),
}

/// All of a crate but its tests.
pub(super) struct CrateGraph {
    sources: BTreeMap<ModulePath, (String, Source)>,
    /// What `use` calls something: by module and name.
    aliases: HashMap<(ModulePath, String), NamedPath>,
}

impl CrateGraph {
    pub(super) fn new(texts: &Texts) -> Self {
        let mut sources = BTreeMap::new();
        for (path, text) in texts {
            let Some(module) = module_of(path) else { continue };
            // The library of a crate that has a binary, too, is its root.
            if !path.ends_with("/main.rs") || !sources.contains_key(&module) {
                sources.insert(module, (path.clone(), source::read(text)));
            }
        }
        remove_tests(&mut sources);
        let mut aliases = HashMap::new();
        for (module, (_, source)) in &sources {
            for named in &source.paths {
                let Some(alias) = &named.alias else { continue };
                aliases.insert((joined(module, &named.within), alias.clone()), named.clone());
            }
        }
        Self { sources, aliases }
    }

    /// Who imports from whom.
    pub(super) fn imports(&self) -> Imports {
        let mut imports = Imports::new();
        for (module, (file, source)) in &self.sources {
            let of_file = imports.entry(file.clone()).or_default();
            for named in &source.paths {
                let Some(other) = self.file_of(module, named) else { continue };
                let is_part = module_of(&other).is_some_and(|path| path.starts_with(module));
                if other != *file && !is_part {
                    of_file.entry(other).or_insert(named.line);
                }
            }
        }
        imports
    }

    /// The first part of each path that leads out of the crate, or may: file, line and part.
    pub(super) fn first_parts(&self) -> Vec<(String, usize, String)> {
        let sources = self.sources.values();
        sources
            .flat_map(|(file, source)| {
                source.paths.iter().filter_map(|named| {
                    Some((file.clone(), named.line, named.parts.first()?.clone()))
                })
            })
            .collect()
    }

    /// The file that defines the object of `named` in `module`. The name of a module alone is no import
    /// yet: a path that begins with it is one.
    fn file_of(&self, module: &ModulePath, named: &NamedPath) -> Option<String> {
        match self.resolve(&joined(module, &named.within), &named.parts, REEXPORTS_MAX)? {
            ImportTarget::File(file) => Some(file),
            ImportTarget::Module(_) => None,
        }
    }

    /// Where the path `parts` leads from `module`; `None` where that is another crate.
    fn resolve(&self, module: &ModulePath, parts: &[String], depth: usize) -> Option<ImportTarget> {
        let (first, rest) = parts.split_first()?;
        let start = match first.as_str() {
            "crate" => ImportTarget::Module(Vec::new()),
            "self" => ImportTarget::Module(module.clone()),
            "super" => ImportTarget::Module(parent(module)),
            _ => self.name_in(module, first, depth, true)?,
        };
        rest.iter().try_fold(start, |target, part| match target {
            ImportTarget::File(_) => Some(target),
            ImportTarget::Module(module) => match part.as_str() {
                "self" => Some(ImportTarget::Module(module)),
                "super" => Some(ImportTarget::Module(parent(&module))),
                "*" => self.definer(&module),
                name => self.name_in(&module, name, depth, false),
            },
        })
    }

    /// What `name` means in `module`. A path may begin with the name of another crate; behind a
    /// module it is something of that module.
    fn name_in(
        &self,
        module: &ModulePath,
        name: &str,
        depth: usize,
        begins: bool,
    ) -> Option<ImportTarget> {
        let child = joined(module, &[name.to_owned()]);
        if self.is_module(&child) {
            return Some(ImportTarget::Module(child));
        }
        match self.aliases.get(&(module.clone(), name.to_owned())) {
            // `use libc;`, and `use nix::libc` in the end.
            Some(named) if depth == 0 || named.parts.len() == 1 => None,
            Some(named) => self.resolve(module, &named.parts, depth - 1),
            None if begins => None,
            None => self.definer(module),
        }
    }

    fn is_module(&self, module: &ModulePath) -> bool {
        self.sources.contains_key(module) || self.is_inline(module)
    }

    /// The module is written out in the file of one around it.
    fn is_inline(&self, module: &ModulePath) -> bool {
        (0..module.len()).any(|len| {
            let (around, inside) = module.split_at(len);
            let source = self.sources.get(around);
            source.is_some_and(|(_, source)| source.inline_modules.iter().any(|m| m == inside))
        })
    }

    /// The file that has the text of `module`.
    fn definer(&self, module: &ModulePath) -> Option<ImportTarget> {
        let nearest = (0..=module.len()).rev().filter_map(|len| module.get(..len));
        let mut files = nearest.filter_map(|around| self.sources.get(around));
        files.next().map(|(file, _)| ImportTarget::File(file.clone()))
    }
}

/// The module that the file at `path` is.
fn module_of(path: &str) -> Option<ModulePath> {
    let (_, inside) = path.split_once("/src/")?;
    let mut parts: ModulePath = inside.strip_suffix(".rs")?.split('/').map(str::to_owned).collect();
    let is_root = parts.len() == 1 && parts.first().is_some_and(|p| p == "lib" || p == "main");
    if is_root || parts.last().is_some_and(|part| part == "mod") {
        parts.pop();
    }
    Some(parts)
}

/// Takes out the modules that only tests have, with all below them, and the simulation.
fn remove_tests(sources: &mut BTreeMap<ModulePath, (String, Source)>) {
    let declared: Vec<ModulePath> = sources
        .iter()
        .flat_map(|(module, (_, source))| {
            source.test_modules.iter().map(|name| joined(module, std::slice::from_ref(name)))
        })
        .collect();
    sources.retain(|module, _| {
        let is_test = declared.iter().any(|test| module.starts_with(test));
        !is_test && !module.iter().any(|part| part == "tests" || part == "simulation")
    });
}

fn joined(module: &[String], inside: &[String]) -> ModulePath {
    [module, inside].concat()
}

fn parent(module: &[String]) -> ModulePath {
    module.split_last().map_or_else(Vec::new, |(_, around)| around.to_vec())
}
