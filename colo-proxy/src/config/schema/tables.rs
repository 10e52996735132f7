//! The tables of the documents, made from the schema.

use serde_json::{Map, Value};

/// A row of a table: its cells.
pub(super) type Row = Vec<String>;

/// The text of `document` with `change` made to the rows of the table below `heading`.
pub(super) fn with_table(
    document: &str,
    heading: &str,
    change: impl FnOnce(Vec<Row>) -> Vec<Row>,
) -> String {
    let lines: Vec<&str> = document.lines().collect();
    let heading = lines.iter().position(|line| *line == heading).expect(heading);
    let table = lines[heading..].iter().position(|line| line.starts_with("| key |"));
    let first = heading + table.expect("a table with keys") + 2;
    let len = lines[first..].iter().position(|line| !line.starts_with('|'));
    let end = len.map_or(lines.len(), |len| first + len);
    let rows = lines[first..end].iter().map(|line| cells(line)).collect();
    let rows = change(rows).into_iter().map(|row| format!("| {} |", row.join(" | ")));
    let rows: Vec<String> = rows.map(|row| row.replace("|  |", "| |")).collect();
    let all = lines[..first].iter().copied().chain(rows.iter().map(String::as_str));
    let all: Vec<&str> = all.chain(lines[end..].iter().copied()).collect();
    all.join("\n") + "\n"
}

fn cells(line: &str) -> Row {
    let inside = line.trim_start_matches('|').strip_suffix('|').unwrap_or(line);
    inside.split(" | ").flat_map(|cell| cell.split("| ")).map(|cell| cell.trim().into()).collect()
}

/// Puts `rows` in the order of the keys in `old`. A new key comes last.
pub(super) fn in_order_of(old: &[Row], mut rows: Vec<Row>) -> Vec<Row> {
    let place = |row: &Row| old.iter().position(|known| known.first() == row.first());
    rows.sort_by_key(|row| place(row).unwrap_or(usize::MAX));
    rows
}

/// Key, type, default, role and meaning of each of `keys`. Those in `required` must be there.
pub(super) fn configuration_rows(keys: &Map<String, Value>, required: &Value) -> Vec<Row> {
    let is_table = |key: &Value| key["type"] == "object";
    let own = keys.iter().filter(|(_, key)| !is_table(key) && key["x-table"].is_null());
    let is_required = |name: &str, key: &Value| {
        let listed = required.as_array().is_some_and(|all| all.iter().any(|one| one == name));
        listed || key["x-required"] == true
    };
    let rows = own.map(|(name, key)| {
        let default = if is_required(name, key) { "required".into() } else { default(key, "`") };
        let role = key["x-role"].as_str().unwrap_or("both").into();
        vec![format!("`{name}`"), kind(key), default, role, meaning(key)]
    });
    rows.collect()
}

/// The default of a key. A text stands in `quotes`.
pub(super) fn default(key: &Value, quotes: &str) -> String {
    match (&key["x-default"], &key["default"]) {
        (Value::String(text), _) => text.clone(),
        (_, Value::Null) => String::new(),
        (_, Value::String(text)) => format!("{quotes}\"{text}\"{quotes}"),
        (_, default) => default.to_string(),
    }
}

/// The description of a key as a cell: no capital at its start, and no full stop at its end.
pub(super) fn meaning(key: &Value) -> String {
    let text = key["description"].as_str().unwrap_or_default();
    let text = text.strip_suffix('.').unwrap_or(text);
    let mut letters = text.chars();
    match (letters.next(), letters.clone().next()) {
        (Some(first), Some(second)) if !second.is_uppercase() => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.into(),
    }
}

/// The type of a key.
fn kind(key: &Value) -> String {
    if let Some(kind) = key["x-type"].as_str() {
        return kind.into();
    }
    if let Some(choices) = key["oneOf"].as_array() {
        let choices = choices.iter().filter_map(|choice| choice["const"].as_str());
        let choices: Vec<String> = choices.map(|choice| format!("`\"{choice}\"`")).collect();
        return choices.join(", ");
    }
    if key["type"] == "boolean" {
        return "true or false".into();
    }
    let unit = key["x-unit"].as_str().unwrap_or_default();
    match (&key["x-range"], key["minimum"].as_u64(), key["maximum"].as_u64()) {
        (Value::String(range), ..) => format!("{unit}, {range}"),
        (_, Some(min), Some(max)) => format!("{unit}, {min} to {max}"),
        (_, Some(min), None) if min > 0 => format!("{unit}, {min} or more"),
        _ => unit.into(),
    }
}
