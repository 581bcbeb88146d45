//! The scripts that build this: what a machine lacks is named with what to do, and the build's
//! environment is one.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned()
}

/// A copy of the scripts and of what they read, on a machine where these programs are as written.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn with(programs: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let [scripts, bin] = ["scripts", "bin"].map(|name| folder.path().join(name));
        for made in [&scripts, &bin] {
            fs::create_dir(made).expect("a folder");
        }
        for entry in fs::read_dir(top().join("scripts")).expect("scripts") {
            let script = entry.expect("an entry").path();
            if script.is_file() {
                fs::copy(&script, scripts.join(script.file_name().expect("a name")))
                    .expect("a copy");
            }
        }
        fs::copy(top().join("Cargo.toml"), folder.path().join("Cargo.toml")).expect("a copy");
        for (name, does) in programs {
            let program = bin.join(name);
            fs::write(&program, format!("#!/bin/sh\n{does}\n")).expect("a program");
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its mode");
        }
        Self { folder }
    }

    fn runs(&self, script: &str) -> Output {
        let path = format!("{}:/usr/bin:/bin", self.folder.path().join("bin").display());
        let mut command = Command::new(self.folder.path().join("scripts").join(script));
        command.env("PATH", path).env("CARGO_TARGET_DIR", self.folder.path().join("target"));
        command.output().expect("it runs")
    }
}

fn said(ran: &Output) -> String {
    assert_eq!(ran.status.code(), Some(1));
    String::from_utf8_lossy(&ran.stderr).into_owned()
}

#[test]
fn a_toolchain_that_is_too_old_is_named_with_where_to_get_another() {
    let old = Machine::with(&[("cargo", "echo cargo 1.63.0")]);
    let said = said(&old.runs("need.sh"));
    assert!(said.contains("error: Rust 1.63.0 is too old, 1."), "{said}");
    assert!(said.contains("install it with rustup (https://rustup.rs)"), "{said}");
    // Of a newer one it says nothing, whatever else is missing here; and nothing is installed.
    let new = Machine::with(&[
        ("cargo", "echo 'cargo 1.999.0 (0123456789 2030-01-01)'"),
        ("apt-get", "exit 1"),
    ]);
    fs::remove_file(new.folder.path().join("scripts/pip-into")).expect("a script");
    let said = String::from_utf8_lossy(&new.runs("need.sh").stderr).into_owned();
    assert!(!said.contains("too old"), "{said}");
}

#[test]
fn without_pip_the_model_is_not_fetched_and_it_is_said_what_to_install() {
    let machine = Machine::with(&[("python3", "echo No module named pip >&2; exit 1")]);
    let said = said(&machine.runs("model.sh"));
    assert!(said.contains("python3 has no pip: install it"), "{said}");
    assert!(!said.contains("No module named pip"), "{said}");
    let left = fs::read_dir(machine.folder.path().join("models")).expect("models").count();
    assert_eq!(left, 0, "nothing half is left");
}

/// A script that runs under `with-env` may source it again: another `CFLAGS` would be another build.
#[test]
fn the_build_environment_is_the_same_however_often_it_is_sourced() {
    let sourced = Command::new("bash")
        .args(["-euo", "pipefail", "-c"])
        .arg(
            ". scripts/env.sh; once=$(export -p); . scripts/env.sh; twice=$(export -p); \
             printf '%s\n' \"$once\"; [ \"$once\" = \"$twice\" ] || { echo and then \"$twice\"; exit 1; }",
        )
        .current_dir(top())
        .env_remove("CFLAGS")
        .env_remove("CXXFLAGS")
        .output()
        .expect("bash");
    let said = String::from_utf8_lossy(&sourced.stdout);
    assert!(sourced.status.success(), "{said}");
    let flags = said.lines().find(|line| line.contains(" CFLAGS=")).unwrap_or_default();
    assert!(flags.matches("pages.h").count() <= 1, "{flags}");
}
