//! What is asked of a server in one turn.

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
            Load::NextTurn => "next turn of a chat".to_owned(),
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
            Load::NextTurn => {
                let first = prompts.next(prompts.words);
                server.batch(args, std::slice::from_ref(&first)).await?;
                let next = Prompt { user: format!("{} And shorter.", first.user), ..first };
                server.batch(args, &[next]).await
            }
        }
    }
}
