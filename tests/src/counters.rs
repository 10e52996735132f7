//! Counters of a network stack, read inside its namespace.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::namespace::Namespace;

/// Counters by name, like `Tcp.InCsumErrors`, `Icmp6.InCsumErrors` or `TcpExt.PAWSEstab`.
pub type Counters = BTreeMap<String, u64>;

/// All counters of `/proc/net/{snmp,netstat,snmp6}`.
pub fn read(namespace: &Namespace) -> Result<Counters> {
    namespace.run(|| {
        // `/proc/net` is the namespace of the process, not of this thread.
        let text = |file: &str| {
            std::fs::read_to_string(format!("/proc/thread-self/net/{file}"))
                .with_context(|| format!("reading /proc/net/{file} of {}", namespace.name()))
        };
        let mut counters = Counters::new();
        two_lines(&text("snmp")?, &mut counters);
        two_lines(&text("netstat")?, &mut counters);
        one_per_line(&text("snmp6")?, &mut counters);
        Ok(counters)
    })
}

/// A line of names and a line of numbers, each after `Tcp:`.
pub(crate) fn two_lines(text: &str, counters: &mut Counters) {
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.chunks(2) {
        let [names, values] = pair else { continue };
        let mut names = names.split_ascii_whitespace();
        let group = names.next().unwrap_or_default();
        for (name, value) in names.zip(values.split_ascii_whitespace().skip(1)) {
            if let Ok(value) = value.parse() {
                counters.insert(format!("{group}{name}").replace(':', "."), value);
            }
        }
    }
}

/// `Udp6InCsumErrors 0`: one counter per line.
pub(crate) fn one_per_line(text: &str, counters: &mut Counters) {
    for line in text.lines() {
        if let Some((name, value)) = line.split_once(char::is_whitespace)
            && let Ok(value) = value.trim().parse()
        {
            let name = name.replacen('6', "6.", 1);
            counters.insert(name, value);
        }
    }
}

/// The checksum errors of every protocol, by name, if there are any.
pub fn checksum_errors(counters: &Counters) -> Vec<(String, u64)> {
    let errors =
        counters.iter().filter(|(name, value)| **value > 0 && name.ends_with("InCsumErrors"));
    errors.map(|(name, value)| (name.clone(), *value)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Counters, checksum_errors, one_per_line, two_lines};

    #[test]
    fn all_three_forms_are_read() {
        let mut counters = Counters::new();
        two_lines("Tcp: InSegs InCsumErrors\nTcp: 7 2\n", &mut counters);
        one_per_line("Udp6InCsumErrors                \t3\nIcmp6InMsgs 4\n", &mut counters);
        assert_eq!(counters.get("Tcp.InSegs"), Some(&7));
        assert_eq!(counters.get("Icmp6.InMsgs"), Some(&4));
        let errors: Vec<String> = checksum_errors(&counters).into_iter().map(|e| e.0).collect();
        assert_eq!(errors, ["Tcp.InCsumErrors", "Udp6.InCsumErrors"]);
    }
}
