//! The layers of `lib.rs` hold: a module imports only from the layers below its own. The list is read from `lib.rs`
//! itself, where a blank line stands between layers, top to bottom.

use std::{collections::BTreeMap, fs, path::Path};

#[test]
fn modules_import_downwards_only() {
    let layers = layers(&fs::read_to_string("src/lib.rs").unwrap());
    let mut wrong = Vec::new();
    for (file, text) in sources(Path::new("src")) {
        let module = file.strip_prefix("src/").unwrap().split(['/', '.']).next().unwrap().to_owned();
        let Some(own) = layers.get(&module) else { continue };
        let mut listed = false;
        for (number, line) in text.lines().enumerate() {
            listed = (listed && line != "};") || line == "use crate::{";
            for import in imports(line, listed, &layers) {
                if import != module && layers[import] <= *own {
                    wrong.push(format!("{file}:{}: `{module}` imports `{import}`, which is not below it", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_their_owners_know_the_foreign_parts() {
    let owners = [("envoy_types", "src/envoy"), ("regorus", "src/policy")];
    for (file, text) in sources(Path::new("src")) {
        for (part, owner) in owners {
            let known = text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(&format!("{part}::")));
            assert!(!known || file.starts_with(owner), "{file} names `{part}`, which only {owner} may");
        }
    }
}

#[test]
fn every_source_file_says_what_it_is() {
    for (file, text) in
        sources(Path::new("src")).into_iter().chain(sources(Path::new("tests"))).chain(sources(Path::new("benches")))
    {
        assert!(text.starts_with("//!"), "{file} has no first line that says what it is");
        assert!(!file.ends_with("/mod.rs"), "{file}: write `foo.rs` beside `foo/`");
    }
}

/// Module to the number of its layer, counted from the top.
fn layers(lib: &str) -> BTreeMap<String, usize> {
    let mut layers = BTreeMap::new();
    let mut layer = 0;
    let list = lib.lines().skip_while(|line| !line.contains("mod "));
    for line in list.take_while(|line| !line.starts_with("#[cfg")) {
        match line.trim_start_matches("pub ").strip_prefix("mod ") {
            Some(name) => drop(layers.insert(name.trim_end_matches(';').to_owned(), layer)),
            None => layer += 1,
        }
    }
    assert!(layers.len() > 5, "lib.rs has no module list");
    layers
}

/// The modules that a line names: `crate::x` anywhere, or `x::` at the start of a line of a `use crate::{` list, in which it
/// may be.
fn imports<'a>(line: &str, listed: bool, layers: &'a BTreeMap<String, usize>) -> impl Iterator<Item = &'a str> {
    let code = line.split("//").next().unwrap_or_default().to_owned();
    let in_list = code.strip_prefix("    ").filter(|rest| listed && !rest.starts_with(' ')).map(str::to_owned);
    layers.keys().map(String::as_str).filter(move |module| {
        let named = code.match_indices("crate::").any(|(at, found)| {
            let rest = code[at + found.len()..].trim_start_matches('{');
            rest.strip_prefix(module).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        });
        let listed = in_list
            .as_deref()
            .is_some_and(|rest| rest.strip_prefix(module).is_some_and(|rest| rest.starts_with("::") || rest == ","));
        named || listed
    })
}

fn sources(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap()));
        }
    }
    found
}
