//! The stand-in cloud as a small server, for trying things by hand:
//! `standin-cloud --listen 127.0.0.1:8656 --fault reset-mid`.

use clap::Parser;
use e2e::standin::{Fault, Script, StandIn};
use std::{io, net::SocketAddr, time::Duration};

/// A stand-in cloud that speaks OpenAI's chat format. A request may ask for faults of its own with
/// the header `x-standin-fault: NAME[,NAME]`.
#[derive(Debug, Parser)]
#[command(name = "standin-cloud")]
struct Args {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8656")]
    listen: SocketAddr,
    /// What it answers, one token per word.
    #[arg(long, default_value = "All is well in the cloud.")]
    says: String,
    /// A fault of every answer, by name; may be given more than once.
    #[arg(long)]
    fault: Vec<Fault>,
    /// Milliseconds before the head of an answer.
    #[arg(long, default_value_t = 0)]
    head_ms: u64,
    /// Milliseconds between the head and the first piece.
    #[arg(long, default_value_t = 0)]
    first_ms: u64,
    /// Milliseconds between pieces.
    #[arg(long, default_value_t = 0)]
    between_ms: u64,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let args = Args::parse();
    let mut script = Script::says(&args.says);
    script.before_head = Duration::from_millis(args.head_ms);
    script.before_first = Duration::from_millis(args.first_ms);
    script.between = Duration::from_millis(args.between_ms);
    let script = args.fault.into_iter().fold(script, Script::with);

    let cloud = StandIn::listen(args.listen).await?;
    cloud.always(script);
    let mut out = io::stdout().lock();
    io::Write::write_all(&mut out, format!("{}\n", cloud.base_url()).as_bytes())?;
    drop(out);
    std::future::pending().await
}
