//! What the operator chooses for frames that are not plainly compared.

/// What to do with a kind of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The primary's leaves when the secondary has sent the same.
    Compare,
    /// The primary's leaves as it comes.
    Release,
    /// The primary's waits for a checkpoint.
    Hold,
}
