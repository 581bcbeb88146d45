//! A real disk that can stand still and be full: a file system in a file, mounted where a gateway
//! keeps its data. Making one needs root; without it there is none, and a test says so.

use super::not_checked;
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// A mounted file system. It thaws and goes when this is dropped.
pub(crate) struct Volume {
    _image: TempDir,
    at: PathBuf,
}

impl Volume {
    /// Mounts an empty one of so many MiB; `None` where that is not allowed, or the slow tests are
    /// not asked for.
    pub(crate) fn mounted_at(at: &Path, mib: u64) -> Option<Self> {
        if std::env::var_os("TOLLGATE_SLOW_TESTS").is_none() {
            println!("slow: run by `make test-all`");
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let image = dir.path().join("disk");
        let file = std::fs::File::create(&image).expect("a file");
        file.set_len(mib << 20).expect("a sparse file");
        std::fs::create_dir_all(at).expect("a place to mount at");
        let image = image.to_str().expect("a name");
        let made = run("mkfs.ext4", &["-q", "-F", "-m", "0", image])
            && run("mount", &["-o", "loop", image, at.to_str().expect("a name")]);
        if !made {
            not_checked("disk", "no file system can be mounted here (root is needed)");
            return None;
        }
        Some(Self { _image: dir, at: at.to_owned() })
    }

    /// From now on every write and sync waits.
    pub(crate) fn freeze(&self) {
        assert!(run("fsfreeze", &["-f", self.at.to_str().expect("a name")]), "to freeze it");
    }

    /// Lets them go on.
    pub(crate) fn thaw(&self) {
        assert!(run("fsfreeze", &["-u", self.at.to_str().expect("a name")]), "to thaw it");
    }

    /// Takes all the room there is; it is free again when the file is removed.
    pub(crate) fn fill(&self) -> PathBuf {
        let path = self.at.join("filler");
        let mut file = std::fs::File::create(&path).expect("a file");
        for piece in [1 << 20, 4_096, 1] {
            let bytes = vec![0x5a; piece];
            while file.write_all(&bytes).and_then(|()| file.sync_data()).is_ok() {}
        }
        path
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let at = self.at.to_str().expect("a name");
        // Frozen or not; a busy one goes with its last file.
        let _thawed = run("fsfreeze", &["-u", at]);
        let _gone = run("umount", &["-l", at]);
    }
}

fn run(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|ran| ran.status.success())
}
