//! What the operator chooses for frames that are not plainly compared.

/// What to do with a kind of frames.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The primary's frame leaves when the secondary has sent the same.
    Compare,
    /// The primary's frame leaves at once.
    Release,
    /// The primary's frame is held until a checkpoint.
    Hold,
}
