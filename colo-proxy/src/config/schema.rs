//! The JSON Schema of the configuration, made from the types that read it.
//!
//! The types give names, types and descriptions. [`KEYS`] adds bounds, defaults and roles of the
//! limits. docs/reference/configuration.schema.json is this schema, and the tables of
//! docs/reference/configuration.md and docs/reference/limits.md are compared with it.

use colo_proxy_engine::pair::Role;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::guest_table::ConfigFile;
use super::limits::KEYS;

#[cfg(test)]
mod tables;
#[cfg(test)]
mod tests;

/// Where the tables lie in the schema.
const GUEST: &str = "/properties/guest/items";
const GUEST_KEYS: &str = "/properties/guest/items/properties";
const LIMIT_KEYS: &str = "/properties/guest/items/properties/limits/properties";

/// The schema of a configuration file.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<ConfigFile>().to_value();
    tidy(&mut schema);
    for keys in [GUEST_KEYS, LIMIT_KEYS] {
        add_limits(keys_at(&mut schema, keys));
    }
    let conditions = [Role::Primary, Role::Secondary].map(|role| condition(&schema, role));
    if let Some(Value::Object(guest)) = schema.pointer_mut(GUEST) {
        guest.insert("allOf".into(), conditions.into_iter().collect());
    }
    schema
}

/// The properties at `place`, which the types of this room have.
fn keys_at<'a>(schema: &'a mut Value, place: &str) -> Option<&'a mut Map<String, Value>> {
    schema.pointer_mut(place)?.as_object_mut()
}

/// Adds the descriptions and defaults of [`KEYS`] to the limits among `keys`.
fn add_limits(keys: Option<&mut Map<String, Value>>) {
    let Some(keys) = keys else { return };
    let description = |key: &Value| key["description"].clone();
    for limit in KEYS {
        let Some(Value::Object(key)) = keys.get_mut(limit.name) else { continue };
        let default = (limit.default)();
        // A number is written as in JSON, and so is a policy, with its quotes.
        key.insert("default".into(), serde_json::from_str(&default).unwrap_or(Value::Null));
        if let Some((min, max)) = limit.bounds {
            key.insert("minimum".into(), min.into());
            key.insert("maximum".into(), max.into());
        }
        if let Some(role) = limit.role {
            key.insert("x-role".into(), role.to_string().into());
        }
    }
    // The limits that may also stand in `[[guest]]` are described once.
    let Some(limits) = keys.get("limits").map(|limits| limits["properties"].clone()) else {
        return;
    };
    for limit in KEYS {
        if let Some(Value::Object(key)) = keys.get_mut(limit.name) {
            key.insert("description".into(), description(&limits[limit.name]));
            key.insert("x-table".into(), "limits".into());
        }
    }
}

/// The keys that `role` cannot do without, and those that it must not have.
fn condition(schema: &Value, role: Role) -> Value {
    let empty = Map::new();
    let keys = |place| schema.pointer(place).and_then(Value::as_object).unwrap_or(&empty);
    let foreign = |place| -> Map<String, Value> {
        let is_foreign = |key: &Value| key["x-role"] == role.opposite().to_string();
        let keys = keys(place).iter().filter(|(_, key)| is_foreign(key));
        keys.map(|(name, _)| (name.clone(), false.into())).collect()
    };
    let is_required = |key: &Value| key["x-required"] == true && key["x-role"] == role.to_string();
    let required = keys(GUEST_KEYS).iter().filter(|(_, key)| is_required(key));
    let required: Vec<&String> = required.map(|(name, _)| name).collect();
    let mut refused = foreign(GUEST_KEYS);
    refused.insert("limits".into(), json!({ "properties": foreign(LIMIT_KEYS) }));
    json!({
        "if": { "properties": { "role": { "const": role.to_string() } }, "required": ["role"] },
        "then": { "required": required, "properties": refused },
    })
}

/// Makes the schema fit for TOML and for readers: TOML has no null, a description is one line, a
/// number has a unit, and a number's size in memory is nobody's business.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            strip_null(map);
            map.remove("format");
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            }
            if let Some(Value::Object(keys)) = map.get_mut("properties") {
                keys.iter_mut().for_each(|(name, key)| add_unit(name, key));
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(values) => values.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// Takes the alternative "null" of an optional key away.
fn strip_null(map: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = map.get_mut("type") {
        types.retain(|one| one != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            map.insert("type".into(), one);
        }
    }
    let Some(Value::Array(alternatives)) = map.get_mut("anyOf") else { return };
    alternatives.retain(|one| one["type"] != "null");
    if let [Value::Object(only)] = alternatives.as_mut_slice() {
        let only = std::mem::take(only);
        map.remove("anyOf");
        for (name, value) in only {
            map.entry(name).or_insert(value);
        }
    }
}

/// Says the unit that the name of a number ends with.
fn add_unit(name: &str, key: &mut Value) {
    let Some(key) = key.as_object_mut() else { return };
    strip_null(key);
    if key.get("type").is_some_and(|kind| kind == "integer") {
        key.entry("x-unit").or_insert_with(|| unit(name).into());
    }
}

fn unit(name: &str) -> &'static str {
    let last = name.rsplit('_').next().unwrap_or(name);
    match last {
        "ms" => "milliseconds",
        "us" => "microseconds",
        "s" => "seconds",
        "percent" => "percent",
        _ if name.contains("bytes") => "bytes",
        _ if name.contains("frames") => "frames",
        _ => "count",
    }
}
