//! The inputs that the fuzzing targets begin from: each is tried here, and what is written to be taken
//! is taken.

use std::process::Command;

#[test]
fn the_corpus_is_tried_and_reaches_what_it_is_for() {
    let findings = tempfile::tempdir().unwrap();
    let ran = Command::new(env!("CARGO_BIN_EXE_fuzz"))
        .args(["--seconds", "0", "--findings"])
        .arg(findings.path())
        .env("TOLLGATE_MODEL", crate::harness::model_file())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    for (target, taken, all) in
        [("gguf", 2, 2), ("text", 3, 3), ("chat", 2, 2), ("schema", 3, 3), ("grammar", 3, 3)]
    {
        let line = format!("{target}: {taken} of {all} inputs of the corpus taken, 0 others");
        assert!(said.contains(&line), "no `{line}`: {said}");
    }
    let left = findings.path().read_dir().unwrap().count();
    assert_eq!(left, 0, "no finding is left where there was none");
}
