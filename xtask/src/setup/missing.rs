//! The missing programs of this machine, and the commands that install them.

use super::packages::PROGRAMS;
use super::{COMPONENTS, DENY, LINKER_VERSION, MDBOOK, NIGHTLY, Need, Tool};
use crate::build_ebpf::toolchain;
use crate::command::find_program;
use std::fmt;

/// The missing programs; by default, none.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Missing {
    /// Rows of [`PROGRAMS`].
    pub programs: Vec<(Need, &'static str, &'static str)>,
    /// A compiler that has the source of its `core`.
    pub compiler: bool,
    pub linker: bool,
    pub tools: Vec<Tool>,
    /// rustfmt and clippy.
    pub components: bool,
}

impl Missing {
    /// The programs of `needs` that this machine does not have.
    pub(super) fn of(needs: &[Need]) -> Self {
        let lacks = |program| find_program(program).is_none();
        let ebpf = needs.contains(&Need::Ebpf);
        let lint = needs.contains(&Need::Lint);
        let book = needs.contains(&Need::Book);
        let programs = PROGRAMS.iter().copied();
        Self {
            programs: programs.filter(|(n, p, _)| needs.contains(n) && lacks(p)).collect(),
            compiler: ebpf && toolchain::compilers().is_empty(),
            linker: ebpf && toolchain::find_linker().is_none(),
            tools: tools(lint && lacks(DENY.name), book && super::find_mdbook().is_none()),
            components: lint && !super::has_components(),
        }
    }
}

fn tools(deny: bool, mdbook: bool) -> Vec<Tool> {
    let tools = [deny.then_some(DENY), mdbook.then_some(MDBOOK)];
    tools.into_iter().flatten().collect()
}

/// One line for each command to type.
impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (need, program, package) in &self.programs {
            let purpose = need.purpose();
            writeln!(f, "  {program}, {purpose}: the package that Debian calls {package}")?;
        }
        if self.compiler {
            writeln!(f, "  {NIGHTLY}")?;
        }
        if self.linker {
            writeln!(f, "  cargo install bpf-linker --version {LINKER_VERSION} --locked")?;
        }
        for Tool { name, version, .. } in &self.tools {
            writeln!(f, "  cargo install {name} --version {version} --locked")?;
        }
        if self.components {
            writeln!(f, "  {COMPONENTS}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::packages::PROGRAMS;
    use super::Missing;

    #[test]
    fn everything_that_is_missing_has_a_line() {
        let programs = PROGRAMS.to_vec();
        let all = Missing {
            programs,
            compiler: true,
            linker: true,
            tools: super::tools(true, true),
            components: true,
        };
        let text = all.to_string();
        assert_eq!(text.lines().count(), PROGRAMS.len() + 5, "{text}");
        for word in [
            "bpftool, for tests that",
            "rustup toolchain install nightly",
            "--component rust-src",
            "cargo install bpf-linker",
            "cargo install cargo-deny",
            "cargo install mdbook",
            "rustup component add rustfmt clippy",
        ] {
            assert!(text.contains(word), "no `{word}` in: {text}");
        }
        assert_eq!(Missing::default().to_string(), "");
    }
}
