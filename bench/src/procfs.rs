//! What the kernel says about processes and about the machine, read from /proc.
//!
//! Invariant: processor time is cumulative and includes every thread; when a thread ended between
//! two readings, the fine per-thread clock would lose its time and the coarse one is used instead.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// Length of one tick in `/proc/<pid>/stat`: `USER_HZ` is 100 in Linux' interface to user space.
const TICK: Duration = Duration::from_millis(10);

/// Processor time of one process at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CpuReading {
    /// User and system time of all threads, dead ones included, in ticks of 10 ms.
    ticks: u64,
    /// Nanoseconds on a processor by thread id, living threads only.
    threads: BTreeMap<u32, u64>,
}

impl CpuReading {
    /// Reads the clocks of a process.
    pub(crate) fn of(pid: u32) -> Result<CpuReading, String> {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        let ticks = stat_ticks(&stat).ok_or_else(|| format!("{path}: unknown format"))?;
        let mut threads = BTreeMap::new();
        if let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) {
            for entry in entries.flatten() {
                let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse().ok())
                else {
                    continue;
                };
                let text = fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
                if let Some(ns) = schedstat_ns(&text) {
                    threads.insert(tid, ns);
                }
            }
        }
        Ok(CpuReading { ticks, threads })
    }

    /// Processor time between two readings of the same process.
    pub(crate) fn since(&self, earlier: &CpuReading) -> Duration {
        let coarse = TICK.saturating_mul(
            u32::try_from(self.ticks.saturating_sub(earlier.ticks)).unwrap_or(u32::MAX),
        );
        let all_alive = earlier.threads.keys().all(|tid| self.threads.contains_key(tid));
        if !all_alive || self.threads.is_empty() {
            return coarse;
        }
        let sum = |reading: &CpuReading| reading.threads.values().sum::<u64>();
        Duration::from_nanos(sum(self).saturating_sub(sum(earlier)))
    }
}

/// Nanoseconds on a processor of a process's living threads, by the threads' names.
pub(crate) fn by_thread_name(pid: u32) -> Result<BTreeMap<String, u64>, String> {
    let folder = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&folder).map_err(|e| format!("{folder}: {e}"))?;
    let mut names = BTreeMap::new();
    for thread in entries.flatten().map(|entry| entry.path()) {
        let name = fs::read_to_string(thread.join("comm")).unwrap_or_default();
        let clock = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
        *names.entry(name.trim_end().to_owned()).or_insert(0) += schedstat_ns(&clock).unwrap_or(0);
    }
    Ok(names)
}

/// utime + stime of a `/proc/<pid>/stat` line. The command name may hold spaces and parentheses, so
/// fields are counted from its last closing one.
fn stat_ticks(stat: &str) -> Option<u64> {
    let after_name = stat.get(stat.rfind(')')? + 1..)?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

/// Nanoseconds on a processor, the first field of a schedstat line.
fn schedstat_ns(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// Memory of a process in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Memory {
    /// Resident now (VmRSS).
    pub(crate) resident_kib: u64,
    /// Most ever resident (VmHWM).
    pub(crate) peak_kib: u64,
}

/// Reads a process's memory.
pub(crate) fn memory(pid: u32) -> Result<Memory, String> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    memory_of(&status).ok_or_else(|| format!("{path}: no VmRSS (has the process ended?)"))
}

fn memory_of(status: &str) -> Option<Memory> {
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    Some(Memory { resident_kib: field("VmRSS:")?, peak_kib: field("VmHWM:")? })
}

/// Time of all cores since boot, in ticks of 10 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MachineTime {
    busy: u64,
    steal: u64,
    total: u64,
}

/// How the machine's core time was spent between two readings.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(crate) struct MachineUse {
    /// Core time spent working, stolen time excluded.
    pub(crate) busy_s: f64,
    /// Core time the hypervisor gave to someone else.
    pub(crate) steal_s: f64,
    /// All core time.
    pub(crate) total_s: f64,
}

impl MachineTime {
    /// Reads /proc/stat.
    pub(crate) fn now() -> Result<MachineTime, String> {
        let stat = fs::read_to_string("/proc/stat").map_err(|e| format!("/proc/stat: {e}"))?;
        machine_time(&stat).ok_or_else(|| "/proc/stat: unknown format".to_owned())
    }

    /// What happened since an earlier reading.
    pub(crate) fn since(&self, earlier: &MachineTime) -> MachineUse {
        let seconds = |now: u64, then: u64| {
            f64::from(u32::try_from(now.saturating_sub(then)).unwrap_or(u32::MAX)) / 100.0
        };
        MachineUse {
            busy_s: seconds(self.busy, earlier.busy),
            steal_s: seconds(self.steal, earlier.steal),
            total_s: seconds(self.total, earlier.total),
        }
    }
}

/// The `cpu ` line: user nice system idle iowait irq softirq steal.
fn machine_time(stat: &str) -> Option<MachineTime> {
    let line = stat.lines().find(|line| line.starts_with("cpu "))?;
    let fields: Vec<u64> =
        line.split_ascii_whitespace().skip(1).take(8).map_while(|f| f.parse().ok()).collect();
    let [user, nice, system, idle, iowait, irq, softirq, steal] = *fields.as_slice() else {
        return None;
    };
    let busy = user + nice + system + irq + softirq;
    Some(MachineTime { busy, steal, total: busy + idle + iowait + steal })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_time_is_read_behind_any_command_name() {
        let stat = "42 (a) name (x) S 1 42 42 0 -1 4194304 10 20 30 40 123 45 6 7 20 0 3 0 99";
        assert_eq!(stat_ticks(stat), Some(168));
        assert_eq!(stat_ticks("42 (short) S 1"), None);
        assert_eq!(stat_ticks(""), None);
    }

    #[test]
    fn threads_are_summed_and_an_ended_thread_falls_back_to_ticks() {
        let reading = |ticks, threads: &[(u32, u64)]| CpuReading {
            ticks,
            threads: threads.iter().copied().collect(),
        };
        let start = reading(10, &[(1, 1_000), (2, 500)]);
        let later = reading(12, &[(1, 4_000), (2, 700), (3, 50)]);
        assert_eq!(later.since(&start), Duration::from_nanos(3_250));
        let one_ended = reading(12, &[(1, 4_000)]);
        assert_eq!(one_ended.since(&start), Duration::from_millis(20));
        assert_eq!(reading(12, &[]).since(&reading(10, &[])), Duration::from_millis(20));
    }

    #[test]
    fn the_own_process_uses_time_and_memory() {
        let before = CpuReading::of(std::process::id()).unwrap();
        let mut sum = 0_u64;
        for i in 0..30_000_000_u64 {
            sum = std::hint::black_box(sum.wrapping_add(i * i));
        }
        let spent = CpuReading::of(std::process::id()).unwrap().since(&before);
        assert!(spent > Duration::ZERO);
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.resident_kib > 0 && memory.peak_kib >= memory.resident_kib);
    }

    #[test]
    fn memory_comes_from_the_named_lines() {
        let status = "Name:\tx\nVmPeak:\t  9 kB\nVmHWM:\t  7000 kB\nVmRSS:\t  6500 kB\n";
        assert_eq!(memory_of(status), Some(Memory { resident_kib: 6_500, peak_kib: 7_000 }));
        assert_eq!(memory_of("Name:\tx\n"), None);
    }

    #[test]
    fn machine_time_knows_stolen_time() {
        let stat = "cpu  10 1 5 100 3 1 2 7 0 0\ncpu0 1 2 3\n";
        let then = machine_time(stat).unwrap();
        assert_eq!(then, MachineTime { busy: 19, steal: 7, total: 129 });
        let now = MachineTime { busy: 119, steal: 17, total: 329 };
        let used = now.since(&then);
        assert_eq!((used.busy_s, used.steal_s, used.total_s), (1.0, 0.1, 2.0));
        assert_eq!(machine_time("cpu  1 2 3\n"), None);
    }
}
