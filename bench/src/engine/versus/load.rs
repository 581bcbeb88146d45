//! What is asked of a server in one turn.

use std::time::{Duration, Instant};

use futures::future::{join, try_join_all};
use serde::Serialize;

use super::super::http::Server;
use super::super::prompt::{self, Prompt};
use super::super::{Answer, EngineArgs};

/// Short chats of the mixed load, and their prompts' filler words.
const SHORT_CHATS: usize = 6;
const SHORT_WORDS: usize = 30;
/// Long prompts of the mixed load, and their filler words.
const LONG_PROMPTS: usize = 2;
const LONG_WORDS: usize = 700;
/// How long the steady load begins new chats, how often a long prompt comes in meanwhile, and how
/// long its answer is.
const STEADY: Duration = Duration::from_secs(20);
const LONG_EVERY: Duration = Duration::from_secs(5);
const LONG_OUT: u32 = 64;
/// How long the answers of one chat are, one after the other; the next chat begins further on. Were
/// all of one length, the chats would begin and end together for ever, and no prompt but the long
/// ones would ever be read while others generate.
const CHAT_OUT: [u32; 7] = [64, 96, 40, 80, 32, 72, 48];
/// Tokens of a slot: a long prompt with its answer, and to spare.
pub(super) const SLOT_TOKENS: u32 = 1_024;

/// See the file's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Load {
    /// So many prompts that share nothing, at once.
    Streams(u32),
    /// Short chats and long prompts, at once; only the short chats are counted.
    Mixed,
    /// Short chats one after the other in some places, and a long prompt every few seconds; only the
    /// chats are counted, each from when it was sent.
    Steady,
    /// One more turn of a chat whose earlier part the server has just answered; only it is counted.
    NextTurn,
}

/// Makes the prompts of all turns, never the same one twice.
#[derive(Debug)]
pub(super) struct Prompts {
    words: usize,
    made: usize,
}

impl Prompts {
    pub(super) fn new(args: &EngineArgs) -> Prompts {
        // A server's tokenizer cannot be asked; the template and the frame take about 45 tokens.
        Prompts { words: args.prompt_tokens.saturating_sub(45), made: 0 }
    }

    fn next(&mut self, words: usize) -> Prompt {
        self.made += 1;
        prompt::prompt(self.made, words, false)
    }
}

impl Load {
    /// Its name in tables.
    pub(super) fn name(self) -> String {
        match self {
            Load::Streams(streams) => format!("{streams} streams"),
            Load::Mixed => format!("{SHORT_CHATS} short chats beside {LONG_PROMPTS} long prompts"),
            Load::Steady => format!(
                "{SHORT_CHATS} short chats at all times, a long prompt every {} s",
                LONG_EVERY.as_secs()
            ),
            Load::NextTurn => "next turn of a chat".to_owned(),
        }
    }

    /// How often each server gets it in a round. A turn of few streams is over in seconds, and what a
    /// shared machine gives a program changes from second to second.
    pub(super) fn turns(self) -> usize {
        match self {
            Load::Streams(..=4) | Load::NextTurn => 4,
            Load::Streams(_) => 2,
            Load::Mixed | Load::Steady => 1,
        }
    }

    /// Puts it on a server; the answers that count.
    pub(super) async fn put(
        self,
        server: &Server,
        prompts: &mut Prompts,
        args: &EngineArgs,
    ) -> Result<Vec<Answer>, String> {
        match self {
            Load::Streams(streams) => {
                let words = prompts.words;
                let all: Vec<Prompt> = (0..streams).map(|_| prompts.next(words)).collect();
                server.batch(args, &all).await
            }
            Load::Mixed => {
                let mut all: Vec<Prompt> =
                    (0..LONG_PROMPTS).map(|_| prompts.next(LONG_WORDS)).collect();
                all.extend((0..SHORT_CHATS).map(|_| prompts.next(SHORT_WORDS)));
                let answers = server.batch(args, &all).await?;
                let longest = answers.iter().map(|answer| answer.prompt_tokens).max().unwrap_or(0);
                Ok(answers.into_iter().filter(|a| a.prompt_tokens * 2 < longest).collect())
            }
            Load::Steady => steady(server, prompts).await,
            Load::NextTurn => {
                let first = prompts.next(prompts.words);
                let answer = server.ask_on(&first, NEXT_TURN, args.output_tokens).await?;
                Ok(vec![answer])
            }
        }
    }
}

/// What is said when the first answer of [`Load::NextTurn`] is there.
const NEXT_TURN: &str = "Tell the end of it again, and let the keeper win.";

async fn steady(server: &Server, prompts: &mut Prompts) -> Result<Vec<Answer>, String> {
    let end = Instant::now() + STEADY;
    let prompts = std::cell::RefCell::new(prompts);
    let ask = |words, out| {
        let prompt = prompts.borrow_mut().next(words);
        server.ask(&prompt, out, Instant::now())
    };
    let ask = &ask;
    let chats = (0..SHORT_CHATS).map(|chat| async move {
        let mut answers = Vec::new();
        let mut lengths = CHAT_OUT.iter().cycle().skip(chat);
        while let Some(out) = lengths.next().filter(|_| Instant::now() < end) {
            answers.push(ask(SHORT_WORDS, *out).await?);
        }
        Ok::<_, String>(answers)
    });
    // A long prompt comes whether or not the one before was answered.
    let longs = (0_u32..).map(|n| LONG_EVERY.saturating_mul(n) + LONG_EVERY / 5);
    let longs = longs.take_while(|after| *after < STEADY).map(|after| async move {
        tokio::time::sleep(after).await;
        ask(LONG_WORDS, LONG_OUT).await
    });
    let (chats, longs) = join(try_join_all(chats), try_join_all(longs)).await;
    longs?;
    Ok(chats?.into_iter().flatten().collect())
}
