//! The two servers, started for the comparison with equal settings, and the ceiling's program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use super::super::EngineArgs;
use super::super::http::Server;
use super::{Cpu, Subject};
use crate::child::Child;
use crate::overhead::tollgate::{create_key, free_address, read_secret};

/// Both, until this is dropped.
#[derive(Debug)]
pub(super) struct Servers {
    tollgate: Server,
    llama_server: Server,
    ours: Child,
    _theirs: Child,
    _folder: tempfile::TempDir,
}

impl Servers {
    /// Starts both. They stay up together, but only one is asked at a time.
    pub(super) async fn start(
        args: &EngineArgs,
        llama_server: &Path,
        threads: u32,
    ) -> Result<Servers, String> {
        let folder = tempfile::Builder::new().prefix("tollgate-bench-").tempdir();
        let folder = folder.map_err(|e| format!("temporary folder: {e}"))?;
        let (tollgate, ours) = tollgate(args, folder.path(), threads).await?;
        let (llama_server, theirs) =
            start_llama_server(args, llama_server, folder.path(), threads).await?;
        Ok(Servers { tollgate, llama_server, ours, _theirs: theirs, _folder: folder })
    }

    pub(super) fn of(&self, subject: Subject) -> &Server {
        match subject {
            Subject::Tollgate => &self.tollgate,
            Subject::LlamaServer => &self.llama_server,
        }
    }

    /// Processor time so far, of tollgate alone.
    pub(super) fn cpu(&self, subject: Subject) -> Result<Option<Cpu>, String> {
        match subject {
            Subject::Tollgate => Cpu::of(self.ours.pid()).map(Some),
            Subject::LlamaServer => Ok(None),
        }
    }
}

async fn tollgate(
    args: &EngineArgs,
    folder: &Path,
    threads: u32,
) -> Result<(Server, Child), String> {
    let fault = |e: std::io::Error| format!("{}: {e}", folder.display());
    let beside = || {
        let own = std::env::current_exe().map_err(|e| format!("this program: {e}"))?;
        Ok::<PathBuf, String>(own.with_file_name("tollgate"))
    };
    let binary = match &args.versus.tollgate {
        Some(binary) => binary.clone(),
        None => beside()?,
    };
    let file = fs::canonicalize(&args.file).map_err(|e| format!("{}: {e}", args.file.display()))?;
    let address = free_address()?;
    let (slots, context) = (args.slots, args.context_tokens);
    let file = file.display();
    let config = format!(
        r#"[server]
listen = "{address}"
data_dir = "data"

[policy]
shipped = "edge-first"

[routes.edge]
kind = "local"
file = "{file}"
slots = {slots}
context_tokens = {context}
threads = {threads}
usd_per_hour = "0.05"
"#
    );
    let path = folder.join("tollgate.toml");
    fs::write(&path, config).map_err(fault)?;
    let mut command = Command::new(&binary);
    command.arg("serve").arg("--config").arg(&path).current_dir(folder);
    let mut child = Child::start(command, None, &folder.join("tollgate.log"))?;
    child.ready(&format!("http://{address}/ready")).await?;
    let admin_key = read_secret(&folder.join("data/admin.key"))?;
    let key = create_key(address, &admin_key).await.map_err(|e| child.complain(&e))?;
    let server = Server::at(&format!("http://{address}"), &key, "edge", &args.never_tokens)?;
    Ok((server, child))
}

async fn start_llama_server(
    args: &EngineArgs,
    binary: &Path,
    folder: &Path,
    threads: u32,
) -> Result<(Server, Child), String> {
    let address = free_address()?;
    let mut command = Command::new(binary);
    command.arg("-m").arg(&args.file);
    command.args(["--host", "127.0.0.1", "--port", &address.port().to_string()]);
    command.args(["-np", &args.slots.to_string(), "-c", &args.context_tokens.to_string()]);
    command.args(["-t", &threads.to_string(), "-tb", &threads.to_string(), "--jinja"]);
    let mut child = Child::start(command, None, &folder.join("llama-server.log"))?;
    child.ready(&format!("http://{address}/health")).await?;
    let server = Server::at(&format!("http://{address}"), "none", "edge", &args.never_tokens)?;
    Ok((server, child))
}

/// What llama-batched-bench yields with a number of sequences, without HTTP and sampling.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Ceiling {
    pub(super) streams: u32,
    /// Generated tokens over the time of reading the prompts and generating, as in the table's other
    /// figures.
    pub(super) tokens_per_s: f64,
    /// Generated tokens over the time of generating alone.
    pub(super) decode_tokens_per_s: f64,
}

/// Runs llama-batched-bench at the streams asked for.
pub(super) fn ceiling(
    binary: &Path,
    args: &EngineArgs,
    threads: u32,
) -> Result<Vec<Ceiling>, String> {
    let streams: Vec<String> = args.streams.iter().map(u32::to_string).collect();
    let mut command = Command::new(binary);
    command.arg("-m").arg(&args.file);
    command.args(["-c", &args.context_tokens.to_string(), "-t", &threads.to_string()]);
    command.args(["-npp", &args.prompt_tokens.to_string()]);
    command.args(["-ntg", &args.output_tokens.to_string(), "-npl", &streams.join(",")]);
    let output = command.output().map_err(|e| format!("{}: {e}", binary.display()))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} ended with {}: {words}", binary.display(), output.status));
    }
    // Which of the two it writes to has changed from version to version.
    let said = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&said);
    let rows: Vec<Ceiling> = text.lines().filter_map(row).collect();
    if rows.len() == args.streams.len() {
        return Ok(rows);
    }
    Err(format!("{} told no row for each number of streams:\n{text}", binary.display()))
}

/// A row of its table: prompt tokens, generated tokens, sequences, KV cells, then times and speeds of
/// reading, of generating and of both.
fn row(line: &str) -> Option<Ceiling> {
    let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
    let [_, generated, streams, _, _, _, _, decode, seconds, _] = cells.as_slice() else {
        return None;
    };
    let streams: u32 = streams.parse().ok()?;
    let generated: u32 = generated.parse().ok()?;
    let seconds: f64 = seconds.parse().ok()?;
    Some(Ceiling {
        streams,
        tokens_per_s: f64::from(generated * streams) / seconds,
        decode_tokens_per_s: decode.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Ceiling, row};

    #[test]
    fn a_row_of_the_ceiling_is_read() {
        let line = "|   235 |    128 |    4 |   1452 |    2.500 |   376.00 |    2.500 |   204.80 |    5.000 |   290.40 |";
        let ceiling = Ceiling { streams: 4, tokens_per_s: 102.4, decode_tokens_per_s: 204.8 };
        assert_eq!(row(line), Some(ceiling));
        assert_eq!(
            row(
                "|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |"
            ),
            None
        );
        assert_eq!(row("|-------|--------|"), None);
    }
}
