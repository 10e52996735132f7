//! Bytes in JSON: hexadecimal, two digits for each. For `#[serde(with)]`.

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::Serializer;

/// Writes `bytes` as one string.
pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for digit in [byte >> 4, byte & 0xf] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or_default());
        }
    }
    serializer.serialize_str(&text)
}

/// Reads what [`serialize`] has written.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(text.as_bytes()).ok_or_else(|| D::Error::custom("bytes that are not hexadecimal"))
}

fn parse(digits: &[u8]) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16);
    let byte = |pair: &[u8]| {
        let &[high, low] = pair else { return None };
        u8::try_from(value(high)? << 4 | value(low)?).ok()
    };
    digits.chunks(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn what_is_no_byte_is_refused() {
        assert_eq!(parse(b"00fF7e"), Some(vec![0, 255, 0x7e]));
        assert_eq!(parse(b""), Some(vec![]));
        for wrong in ["0", "0g", "+1", "000"] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
