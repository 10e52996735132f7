//! The JSON Schemas in `docs/reference` are those of the types.

use std::path::{Path, PathBuf};

use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::offline::DiffAnswer;
use crate::status::*;

/// With this variable, the test writes the schemas.
const WRITE: &str = "COLO_PROXY_WRITE_SCHEMAS";
const STATUS: &str = "status.schema.json";
const DIVERGENCES: &str = "divergences.schema.json";
const DIFF: &str = "diff.schema.json";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference")
}

/// The schema of what is written, not of what a reader would take.
fn schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

fn text_of(schema: &Value) -> String {
    format!("{schema:#}\n")
}

/// Says what to do if `name` in `folder` is not `wanted`.
fn compare(folder: &Path, name: &str, wanted: &str) -> Result<(), String> {
    let path = folder.join(name);
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    if found == wanted {
        return Ok(());
    }
    Err(format!(
        "{} is not the schema of the types in colo-proxy/src/status. To write it, run: {WRITE}=1 \
         cargo test -p colo-proxy --lib status::tests::schema",
        path.display()
    ))
}

#[test]
fn the_committed_schemas_are_those_of_the_types() {
    let all = [
        (STATUS, text_of(&schema::<StatusList>())),
        (DIVERGENCES, text_of(&schema::<DivergencesList>())),
        (DIFF, text_of(&schema::<DiffAnswer>())),
    ];
    for (name, wanted) in all {
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(folder().join(name), &wanted).expect("it is written");
        }
        assert_eq!(compare(&folder(), name, &wanted), Ok(()));
    }
}

#[test]
fn another_schema_is_found_and_the_command_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let old = text_of(&schema::<DivergencesList>());
    let wanted = text_of(&schema::<StatusList>());
    for found in [None, Some(old.as_str()), Some(wanted.trim_end())] {
        if let Some(found) = found {
            std::fs::write(folder.path().join(STATUS), found).expect("it is written");
        }
        let error = compare(folder.path(), STATUS, &wanted).expect_err("another one");
        assert!(error.contains("COLO_PROXY_WRITE_SCHEMAS=1 cargo test"), "{error}");
    }
    std::fs::write(folder.path().join(STATUS), &wanted).expect("it is written");
    assert_eq!(compare(folder.path(), STATUS, &wanted), Ok(()));
}

/// The fields without a description for somebody who does not know the code, by their place.
fn undescribed(schema: &Value, place: &str, found: &mut Vec<String>) {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        for (name, field) in properties {
            // The word that says which kind of object it is has its meaning in the object.
            let text = field.get("description").and_then(Value::as_str).unwrap_or_default();
            // A link into the code leads nowhere.
            if (text.is_empty() && field.get("const").is_none()) || text.contains("[`") {
                found.push(format!("{place}/{name}"));
            }
        }
    }
    match schema {
        Value::Object(fields) => {
            for (name, field) in fields {
                undescribed(field, &format!("{place}/{name}"), found);
            }
        }
        Value::Array(all) => all.iter().for_each(|one| undescribed(one, place, found)),
        _ => {}
    }
}

#[test]
fn every_field_has_a_description() {
    for schema in [schema::<StatusList>(), schema::<DivergencesList>(), schema::<DiffAnswer>()] {
        let mut found = Vec::new();
        undescribed(&schema, "", &mut found);
        assert_eq!(found, Vec::<String>::new());
    }
    let mut found = Vec::new();
    let bare = serde_json::json!({"properties": {
        "a": {"type": "integer"},
        "b": {"description": "As [`code`] does."},
        "c": {"description": "A field."},
    }});
    undescribed(&bare, "", &mut found);
    assert_eq!(found, ["/a", "/b"]);
}

#[test]
fn a_schema_names_what_the_answers_have() {
    let status = schema::<StatusList>();
    let roles: Vec<&Value> = status["$defs"]["Status"]["oneOf"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|kind| &kind["properties"]["role"]["const"])
        .collect();
    let wanted = ["primary", "secondary", "filter-mirror", "filter-redirector", "filter-rewriter"];
    assert_eq!(roles, wanted);
}
