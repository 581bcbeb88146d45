//! Where and from what a result was measured: a number without its birthplace is worth nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// The machine and the build behind a result.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Birthplace {
    /// ISO date.
    pub(crate) date: String,
    /// UTC time at which the run began.
    pub(crate) began: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: Option<u64>,
    pub(crate) kernel: String,
    /// One-minute load average when the run began: what others were doing.
    pub(crate) load_average: Option<f64>,
    /// `git describe --always --dirty` of the sources.
    pub(crate) version: String,
    /// `release` or `dev`: figures of a dev build say nothing.
    pub(crate) profile: &'static str,
    pub(crate) command: String,
}

impl Birthplace {
    /// Looks around. `date` replaces today's.
    pub(crate) fn look(date: Option<&str>) -> Birthplace {
        let now = jiff::Timestamp::now();
        let today = now.to_string().get(..10).unwrap_or("unknown").to_owned();
        Birthplace {
            date: date.map_or(today, str::to_owned),
            began: now.to_string(),
            cpu: cpu_model(&read("/proc/cpuinfo")).unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_mib: memory_mib(&read("/proc/meminfo")),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_average: read("/proc/loadavg")
                .split_ascii_whitespace()
                .next()
                .and_then(|load| load.parse().ok()),
            version: describe().unwrap_or_else(|| "unknown".to_owned()),
            profile: if cfg!(debug_assertions) { "dev" } else { "release" },
            command: command_line(std::env::args()),
        }
    }

    /// A folder name: `2026-11-22-amd-epyc-2c`.
    pub(crate) fn folder(&self) -> String {
        format!("{}-{}-{}c", self.date, slug(&self.cpu), self.cores)
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn cpu_model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib / 1024)
}

fn describe() -> Option<String> {
    let done =
        Command::new("git").args(["describe", "--always", "--dirty", "--tags"]).output().ok()?;
    let text = String::from_utf8(done.stdout).ok()?;
    (done.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// The command as typed, without the folders of the machine it was typed on.
fn command_line(args: impl Iterator<Item = String>) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let shorten = |word: String| {
        let path = Path::new(&word);
        if !path.is_absolute() {
            return word;
        }
        match (path.strip_prefix(&here), path.file_name()) {
            (Ok(inside), _) => inside.display().to_string(),
            (Err(_), Some(name)) => name.to_string_lossy().into_owned(),
            (Err(_), None) => word,
        }
    };
    let mut words = args.map(shorten);
    let program = words.next().unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ")
}

fn slug(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        if letter.is_ascii_alphanumeric() {
            out.push(letter.to_ascii_lowercase());
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
    }
    out.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_named_after_date_and_machine() {
        let mut place = Birthplace::look(Some("2026-11-22"));
        place.cpu = "AMD EPYC (TM) 9R14 ".to_owned();
        place.cores = 2;
        assert_eq!(place.folder(), "2026-11-22-amd-epyc-tm-9r14-2c");
    }

    #[test]
    fn the_command_line_names_no_folder_of_this_machine() {
        let words = [
            "/home/someone/target/release/bench",
            "overhead",
            "--tollgate",
            "/home/someone/tollgate",
        ];
        let line = command_line(words.iter().map(|word| (*word).to_owned()));
        assert_eq!(line, "bench overhead --tollgate tollgate");
    }

    #[test]
    fn the_machine_is_read_from_the_kernels_files() {
        assert_eq!(
            cpu_model("processor\t: 0\nmodel name\t: AMD EPYC\n").as_deref(),
            Some("AMD EPYC")
        );
        assert_eq!(cpu_model(""), None);
        assert_eq!(memory_mib("MemTotal:       25000000 kB\n"), Some(24_414));
    }
}
