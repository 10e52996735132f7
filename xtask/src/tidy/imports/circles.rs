//! The circles in a graph of imports.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::graph::Imports;

/// Files, each with the line that imports from the next one; the last imports from the first.
pub(super) type Circle = Vec<(String, usize)>;

/// A shortest circle of each knot: of all files that lead to each other. Each begins with the first
/// file by name.
pub(super) fn of(imports: &Imports) -> Vec<Circle> {
    let mut circles = Vec::new();
    let mut seen = BTreeSet::new();
    for start in imports.keys() {
        if seen.contains(start.as_str()) {
            continue;
        }
        let Some(circle) = shortest(imports, start) else { continue };
        // One circle for each knot. The others show when this one is gone.
        let behind = reached(imports, start);
        seen.extend(
            behind.into_iter().filter(|file| reached(imports, file).contains(start.as_str())),
        );
        circles.push(circle);
    }
    circles
}

/// The shortest way from `start` to itself.
fn shortest(imports: &Imports, start: &str) -> Option<Circle> {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(file) = queue.pop_front() {
        for next in imports.get(file).into_iter().flat_map(BTreeMap::keys) {
            if next == start {
                return Some(way(imports, &came_from, start, file));
            }
            if !came_from.contains_key(next.as_str()) {
                came_from.insert(next, file);
                queue.push_back(next);
            }
        }
    }
    None
}

/// The circle that `last` closes.
fn way(imports: &Imports, came_from: &BTreeMap<&str, &str>, start: &str, last: &str) -> Circle {
    let line = |from: &str, to: &str| {
        imports.get(from).and_then(|of_file| of_file.get(to)).copied().unwrap_or_default()
    };
    let mut circle = Vec::new();
    let (mut file, mut next) = (last, start);
    loop {
        circle.push((file.to_owned(), line(file, next)));
        match came_from.get(file) {
            Some(before) if file != start => (next, file) = (file, before),
            _ => break,
        }
    }
    circle.reverse();
    circle
}

/// All files that `start` imports from, directly or by way of others.
fn reached<'a>(imports: &'a Imports, start: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut queue = vec![start];
    while let Some(file) = queue.pop() {
        for next in imports.get(file).into_iter().flat_map(BTreeMap::keys) {
            if found.insert(next.as_str()) {
                queue.push(next);
            }
        }
    }
    found
}
