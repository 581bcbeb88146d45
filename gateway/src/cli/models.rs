//! `tollgate model`: the models in the server's process.

use super::{
    CliError, Common, Exit,
    link::{Link, Missing},
    output::{self, Align, rows, text},
};
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};
use std::path::PathBuf;

/// What to do with a model. It has the name of its route.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// List the models: state, file, digest, quantisation, memory, load time
    List,
    /// Load a model now
    Load(NameArgs),
    /// Unload a model; what runs on it goes on for a while
    Unload(UnloadArgs),
    /// Give the name to another file: it is loaded first, then the old one drains
    Swap(SwapArgs),
}

/// A model.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The name of its route
    pub(crate) name: String,
}

/// A model to unload.
#[derive(Debug, Args)]
pub(crate) struct UnloadArgs {
    /// The name of its route
    pub(crate) name: String,
    /// Milliseconds that running answers may go on
    #[arg(long, value_name = "MS", default_value_t = 60_000)]
    pub(crate) drain_ms: u64,
}

/// A model to exchange.
#[derive(Debug, Args)]
pub(crate) struct SwapArgs {
    /// The name of its route
    pub(crate) name: String,
    /// The GGUF file that takes the name
    pub(crate) file: PathBuf,
    /// Milliseconds that answers running on the old file may go on
    #[arg(long, value_name = "MS", default_value_t = 60_000)]
    pub(crate) drain_ms: u64,
}

/// Runs a model command.
pub(crate) async fn run(common: &Common, command: ModelCommand) -> Result<(), CliError> {
    let link = Link::open(common, Missing::Refuse).await?;
    if !link.is_server() {
        return Err(CliError::new(Exit::Unreachable, "no server runs on this directory")
            .hint("`tollgate serve` starts one; models live in its process"));
    }
    match command {
        ModelCommand::List => list(common, &link.get("/models").await?),
        ModelCommand::Load(args) => changed(
            common,
            &link.ask(Method::POST, &path(&args.name, "load"), Some(&json!({}))).await?,
        ),
        ModelCommand::Unload(args) => {
            let body = json!({ "drain_ms": args.drain_ms });
            changed(
                common,
                &link.ask(Method::POST, &path(&args.name, "unload"), Some(&body)).await?,
            )
        }
        ModelCommand::Swap(args) => {
            // The server may have another working directory.
            let file = std::path::absolute(&args.file).unwrap_or(args.file);
            let body = json!({ "file": file, "drain_ms": args.drain_ms });
            changed(common, &link.ask(Method::POST, &path(&args.name, "swap"), Some(&body)).await?)
        }
    }
}

fn path(name: &str, verb: &str) -> String {
    format!("/models/{}/{verb}", name.replace('/', "%2F"))
}

fn list(common: &Common, models: &Value) -> Result<(), CliError> {
    if common.json {
        return output::json(models);
    }
    output::table(
        rows(models),
        &[
            ("MODEL", Align::Left, &|model| text(model, "/id")),
            ("STATE", Align::Left, &|model| text(model, "/state")),
            ("FILE", Align::Left, &|model| text(model, "/file")),
            ("SHA256", Align::Left, &|model| text(model, "/sha256").chars().take(12).collect()),
            ("QUANT", Align::Left, &|model| text(model, "/quantisation")),
            ("MIB", Align::Right, &|model| mib(model)),
            ("LOAD MS", Align::Right, &|model| text(model, "/load_ms")),
            ("LOADS", Align::Right, &|model| text(model, "/loads")),
            ("FAULTS", Align::Right, &|model| text(model, "/faults")),
            ("RUNNING", Align::Right, &|model| text(model, "/slots_running")),
        ],
    )
}

fn mib(model: &Value) -> String {
    let bytes = model.pointer("/memory_bytes").and_then(Value::as_u64);
    bytes.map_or_else(|| "-".to_owned(), |bytes| (bytes >> 20).to_string())
}

fn changed(common: &Common, model: &Value) -> Result<(), CliError> {
    if common.json {
        return output::json(model);
    }
    let (id, state, file) = (text(model, "/id"), text(model, "/state"), text(model, "/file"));
    output::say(format!("{id} is {state} ({file})"))
}
