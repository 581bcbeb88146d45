//! The shape of the house: who imports whom, where names that matter may stand, and what every file
//! owes its reader. What a compiler cannot see is seen here.

use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned()
}

/// Files of the repository's own with that extension, with their path from the top.
fn files(below: &str, extension: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(below)];
    while let Some(directory) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for path in entries.map(|entry| entry.expect("an entry").path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let theirs = ["target", "shared", "models", "data", "runs"].contains(&name.as_str());
            let hidden = name.starts_with('.') && name != ".ci";
            if path.is_dir() && !theirs && !hidden {
                open.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                let text = std::fs::read_to_string(&path).expect("text");
                let path = path.strip_prefix(root()).expect("below the top");
                found.push((path.display().to_string(), text));
            }
        }
    }
    assert!(!found.is_empty(), "no .{extension} below {below}");
    found
}

/// Source lines of product code: no comments, and no item that is for tests alone.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    // How far the item that is passed over is indented.
    let mut passed_over = None;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        if let Some(from) = passed_over {
            let ends = code.ends_with(';') || code.starts_with('}') || code.ends_with("{}");
            if indent == from && ends {
                passed_over = None;
            }
            return false;
        }
        if code == "#[cfg(test)]" {
            passed_over = Some(indent);
            return false;
        }
        !code.starts_with("//")
    })
}

/// Whether code names that, as a whole word.
fn names(code: &str, word: &str) -> bool {
    let whole = |at: usize| {
        let ends = [code[..at].chars().next_back(), code[at + word.len()..].chars().next()];
        let inner = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        (!inner(ends[0]) || !inner(word.chars().next()))
            && (!inner(ends[1]) || !inner(word.chars().next_back()))
    };
    code.match_indices(word).any(|(at, _)| whole(at))
}

#[test]
fn what_is_for_tests_alone_is_passed_over_and_nothing_else() {
    let text = "//! Doc\n#[cfg(test)]\nmod tests;\nuse a;\n#[cfg(test)]\nfn f() {\n    b;\n}\n\
                impl C {\n    #[cfg(test)]\n    fn g(\n    ) {\n        d;\n    }\n    e;\n}\n";
    let lines: Vec<_> = code(text).map(|(line, code)| format!("{line} {}", code.trim())).collect();
    assert_eq!(lines, ["4 use a;", "9 impl C {", "15 e;", "16 }"]);
    assert!(names("use std::{fs, io};", "fs") && names("fs::read()", "fs"));
    assert!(!names("let offs = 1;", "fs") && !names("fsync()", "fs"));
}

fn dependencies(member: &str, ours: &[&str]) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(member).join("Cargo.toml")).expect("a manifest");
    let manifest: toml::Table = text.parse().expect("TOML");
    let mut found: Vec<String> = ["dependencies", "dev-dependencies", "build-dependencies"]
        .iter()
        .filter_map(|table| manifest.get(*table)?.as_table())
        .flat_map(|table| table.keys().cloned())
        .filter(|name| ours.contains(&name.as_str()))
        .collect();
    found.sort();
    found
}

#[test]
fn crates_import_only_what_they_may() {
    let ours = ["policies", "local-engine", "gateway", "e2e", "bench"];
    assert_eq!(dependencies("policies", &ours), [] as [&str; 0]);
    assert_eq!(dependencies("local-engine", &ours), [] as [&str; 0]);
    assert_eq!(dependencies("gateway", &ours), ["local-engine", "policies"]);
}

#[test]
fn the_policies_crate_is_pure() {
    let outside = [
        "tokio",
        "futures",
        "reqwest",
        "axum",
        "http",
        "hyper",
        "sled",
        "libc",
        "rand",
        "getrandom",
        "jiff",
    ];
    assert_eq!(dependencies("policies", &outside), [] as [&str; 0]);
    for (file, text) in files("policies/src", "rs") {
        for (line, code) in code(&text) {
            for word in [
                "SystemTime",
                "Instant::now",
                "fs::",
                "env::",
                "net::",
                "thread::",
                "process::",
                "async fn",
                "f32",
                "f64",
            ] {
                assert!(!names(code, word), "{file}:{line} has `{word}`; policies sees facts only");
            }
        }
    }
}

#[test]
fn the_local_engine_knows_no_http_money_or_policy() {
    let outside = ["http", "axum", "hyper", "reqwest", "policies", "gateway", "sled"];
    assert_eq!(dependencies("local-engine", &outside), [] as [&str; 0]);
    let naming: Vec<_> = files("local-engine/src", "rs")
        .into_iter()
        .filter(|(_, text)| code(text).any(|(_, line)| line.contains("llama_cpp_2")))
        .map(|(file, _)| file)
        .collect();
    let inside = |file: &String| file.starts_with("local-engine/src/llama");
    assert!(naming.iter().all(inside), "one module names llama-cpp-2: {naming:?}");
    assert!(!naming.is_empty());
}

/// Files of `gateway/src` outside `allowed`, and not tests, whose code has one of `words`.
fn strays(words: &[&str], allowed: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (file, text) in files("gateway/src", "rs") {
        let is_test = file.ends_with("/tests.rs") || file.contains("/tests/");
        if is_test || allowed.iter().any(|place| file.starts_with(&format!("gateway/src/{place}")))
        {
            continue;
        }
        for (line, code) in code(&text) {
            if words.iter().any(|word| code.contains(word)) {
                found.push(format!("{file}:{line}: {}", code.trim()));
            }
        }
    }
    found
}

#[test]
fn only_the_store_touches_sled() {
    assert_eq!(strays(&["sled::"], &["store"]), [] as [String; 0]);
}

#[test]
fn only_refusal_knows_the_status_codes_of_errors() {
    let errors = [
        "BAD_REQUEST",
        "UNAUTHORIZED",
        "PAYMENT_REQUIRED",
        "FORBIDDEN",
        "NOT_FOUND",
        "METHOD_NOT_ALLOWED",
        "REQUEST_TIMEOUT",
        "CONFLICT",
        "PAYLOAD_TOO_LARGE",
        "UNPROCESSABLE_ENTITY",
        "TOO_MANY_REQUESTS",
        "INTERNAL_SERVER_ERROR",
        "BAD_GATEWAY",
        "SERVICE_UNAVAILABLE",
        "GATEWAY_TIMEOUT",
    ];
    let words: Vec<String> = errors.iter().map(|name| format!("StatusCode::{name}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // The others answer no request: what the status of a provider, a server or axum means, and /ready's 503.
    let allowed = [
        "refusal",
        "routes/cloud/status.rs",
        "serve/pages.rs",
        "cli/link.rs",
        "cli/doctor.rs",
        "admin/read.rs",
    ];
    assert_eq!(strays(&words, &allowed), [] as [String; 0]);
}

#[test]
fn only_the_edge_knows_providers_json() {
    let words =
        ["\"chat.completion", "\"finish_reason\"", "\"prompt_tokens\"", "prompt_tokens_details"];
    assert_eq!(strays(&words, &["wire", "providers"]), [] as [String; 0]);
}

#[test]
fn every_source_file_opens_with_what_it_is_for() {
    for (file, text) in files(".", "rs") {
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        assert!(first.starts_with("//!"), "{file} does not begin with `//!`");
        assert!(first.len() > 20, "{file}: `{first}` says too little");
    }
}

#[test]
fn no_unfinished_marks() {
    // Put together here, so that this file does not find itself.
    let marks = ["todo!(", "unimplemented!(", "dbg!(", "#[ignore"].map(str::to_owned);
    let words = ["FIX", "XX", "TO"].iter().zip(["ME", "X", "DO"]).map(|(a, b)| format!("{a}{b}"));
    let all: Vec<String> = words.chain(marks).collect();
    for (file, text) in files(".", "rs") {
        if file.ends_with("tidy.rs") {
            continue;
        }
        for (at, line) in text.lines().enumerate() {
            for mark in &all {
                let whole = line.split(|c: char| c.is_alphanumeric()).count() > 0
                    && line.contains(mark.as_str());
                assert!(!whole, "{file}:{}: {mark}", at + 1);
            }
        }
    }
}

#[test]
fn the_shipped_prices_and_policies_are_known_to_the_documentation() {
    let policies =
        std::fs::read_to_string(root().join("docs/policies.md")).expect("docs/policies.md");
    for (file, _) in files("policies/shipped", "toml") {
        let name = Path::new(&file).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        assert!(policies.contains(&name), "docs/policies.md does not tell of {name}");
    }
}

#[test]
fn every_column_of_the_ledger_is_documented_by_the_name_that_it_has() {
    let read = |file: &str| std::fs::read_to_string(root().join(file)).expect(file);
    let api: Value = serde_json::from_str(&read("docs/openapi.json")).expect("JSON");
    let fields = |object: &str| -> Vec<String> {
        let fields = &api["components"]["schemas"][object]["properties"];
        fields.as_object().expect(object).keys().cloned().collect()
    };
    let usage = &api["components"]["schemas"]["Attempt"]["properties"]["usage"]["required"];
    let buckets = usage.as_array().expect("buckets").iter().filter_map(Value::as_str);
    let export = read("gateway/src/admin/export.rs");
    let header = export.split("const CSV:").nth(1).and_then(|rest| rest.split("];").next());
    let header = header.expect("the CSV's header").split('"').skip(1).step_by(2);
    let entry = ["Entry", "StageTimes", "DecisionMade", "GuardAction"];
    let attempt = ["Attempt", "AttemptTimes", "ModelFile", "Guesses"];
    for (section, names) in [
        ("Columns of an entry", entry.into_iter().flat_map(fields).collect::<Vec<_>>()),
        (
            "Columns of an attempt",
            attempt.into_iter().flat_map(fields).chain(buckets.map(str::to_owned)).collect(),
        ),
        ("Columns of the CSV export", header.map(str::to_owned).collect()),
    ] {
        assert!(names.len() > 20, "{section}: {names:?}");
        let doc = read("docs/ledger.md");
        let text = doc.split(&format!("\n## {section}\n")).nth(1).expect(section);
        let text = text.split("\n## ").next().unwrap_or_default();
        // `times.wait_us`, `.head_us`: each part is a name.
        let told: BTreeSet<&str> =
            text.split('`').skip(1).step_by(2).flat_map(|name| name.split('.')).collect();
        for name in names {
            assert!(told.contains(&*name), "docs/ledger.md, {section}: no `{name}`");
        }
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    for (file, text) in files(".", "md") {
        let folder = root().join(&file).parent().expect("a folder").to_owned();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                continue;
            }
            assert!(folder.join(path).exists(), "{file} links to {target}");
        }
    }
}

/// The compiler takes a profile that it cannot read for none, and says so in a warning at most.
#[test]
fn the_compiler_reads_the_profile_that_releases_are_built_with() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("read.rs");
    std::fs::write(&source, "pub fn next(x: u32) -> u32 { x + 1 }").expect("a source");
    let profile = root().join("bench/release.profdata");
    let compiled = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--crate-type=lib", "-O"])
        .arg(format!("-Cprofile-use={}", profile.display()))
        .arg("--out-dir")
        .arg(folder.path())
        .arg(&source)
        .output()
        .expect("rustc");
    let said = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success() && said.is_empty(), "{said}");
}
