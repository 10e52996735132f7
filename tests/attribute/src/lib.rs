//! `#[lab_test]`: a test that the lab's harness runs.
//!
//! `#[lab_test]` needs nothing, `#[lab_test(root)]` needs root, and `#[lab_test(root, qemu)]` also
//! needs a QEMU. The words are those of `colo_lab::harness::TestNeed`. Without them the harness
//! shows the test as ignored.

use std::fmt::Write as _;

use proc_macro::{TokenStream, TokenTree};

/// Leaves the function as it is, and registers it.
#[proc_macro_attribute]
pub fn lab_test(needs: TokenStream, function: TokenStream) -> TokenStream {
    let registration = match registration(needs, function.clone()) {
        Ok(registration) => registration,
        Err(problem) => format!("::core::compile_error!({problem:?});"),
    };
    let registration: TokenStream = registration.parse().unwrap_or_default();
    function.into_iter().chain(registration).collect()
}

fn registration(needs: TokenStream, function: TokenStream) -> Result<String, &'static str> {
    let name = name(function).ok_or("`lab_test` belongs above a function")?;
    let mut list = String::new();
    for token in needs {
        match token {
            TokenTree::Ident(need) => {
                let _ = write!(
                    list,
                    "::colo_lab::harness::TestNeed::{},",
                    capitalised(&need.to_string())
                );
            }
            TokenTree::Punct(comma) if comma.as_char() == ',' => {}
            _ => return Err("`lab_test` takes the words of `colo_lab::harness::TestNeed`"),
        }
    }
    Ok(format!(
        "::colo_lab::harness::inventory::submit! {{ ::colo_lab::harness::LabTest {{ \
         module: ::core::module_path!(), name: \"{name}\", needs: &[{list}], \
         run: || ::colo_lab::harness::TestEnding::ending({name}()) }} }}"
    ))
}

/// The word after `fn`. A function's body is one token, so no other `fn` comes before it.
fn name(function: TokenStream) -> Option<String> {
    let mut tokens = function.into_iter();
    tokens.find(|token| matches!(token, TokenTree::Ident(word) if word.to_string() == "fn"))?;
    tokens.next().map(|name| name.to_string())
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
