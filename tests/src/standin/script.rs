//! What the stand-in does with one request: what it says, and where it goes wrong.

use std::{str::FromStr, time::Duration};
use tokio_util::sync::CancellationToken;

/// What to do with one request. The default is a short, healthy answer.
#[derive(Clone, Debug)]
pub struct Script {
    /// Status of the answer.
    pub status: u16,
    /// Headers beside the usual ones.
    pub headers: Vec<(String, String)>,
    /// In place of the usual content type.
    pub content_type: Option<String>,
    /// In place of the whole body, byte for byte.
    pub body: Option<String>,
    /// In place of an answer, an error in the words of the format that was asked in.
    pub error: Option<ErrorSaid>,
    /// The answer's text, one piece per token and per chunk of a stream.
    pub pieces: Vec<String>,
    /// In place of the pieces, a call of this tool with these arguments.
    pub call: Option<(String, String)>,
    /// How the answer ended; cut by the request's own cap, it is `length`.
    pub finish: String,
    /// Which usage is reported.
    pub reported: Reported,
    /// Tokens reported for the prompt, those from a cache included.
    pub prompt_tokens: u64,
    /// Of those, tokens from a cache.
    pub cached_tokens: u64,
    /// Tokens reported for the answer; `None`: as many as pieces were sent.
    pub completion_tokens: Option<u64>,
    /// Of those, hidden reasoning.
    pub reasoning_tokens: u64,
    /// Whether a stream ends with `[DONE]`.
    pub done: bool,
    /// Wait before the head of the answer.
    pub before_head: Duration,
    /// Wait between the head and the first piece.
    pub before_first: Duration,
    /// Wait between pieces.
    pub between: Duration,
    /// Where the answer is cut off.
    pub cut: Option<Cut>,
    /// Where a stream waits until it is let go; what is not streamed waits before its body.
    pub hold: Option<Hold>,
    /// Writes the body in segments of so many bytes, which splits lines and characters.
    pub segment_bytes: Option<usize>,
    /// Wait between segments.
    pub between_segments: Duration,
}

/// An error, in OpenAI's words.
#[derive(Clone, Debug)]
pub struct ErrorSaid {
    /// Its `type`.
    pub kind: String,
    /// Its `code`.
    pub code: Option<String>,
    /// Its message.
    pub message: String,
}

/// Which usage an answer reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// As OpenAI does: in an unstreamed answer always, in a stream's last chunk if asked for.
    Asked,
    /// Never.
    Never,
    /// Twice, in two chunks of its own (as if asked for).
    Twice,
    /// In the chunk that carries the finish reason (as if asked for).
    InLastDelta,
}

/// Where and how an answer is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The connection is reset (RST) there.
    Reset(Point),
    /// The connection is closed (FIN) there.
    Close(Point),
    /// Nothing more comes, until the client leaves.
    Hang(Point),
}

/// A place where an answer waits until the test lets it go.
#[derive(Clone, Debug)]
pub struct Hold {
    pub(super) at: Point,
    pub(super) go: CancellationToken,
}

/// A place in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Before its first byte.
    Head,
    /// After the head and so many pieces.
    Piece(usize),
    /// After its last event, before the end of its body.
    End,
}

impl Hold {
    /// After the head and so many pieces.
    #[must_use]
    pub fn after_pieces(pieces: usize) -> Self {
        Self { at: Point::Piece(pieces), go: CancellationToken::new() }
    }

    /// Lets the answer go on.
    pub fn let_go(&self) {
        self.go.cancel();
    }
}

impl Default for Script {
    fn default() -> Self {
        Self::says("All is well in the cloud.")
    }
}

impl Script {
    /// An answer of this text, one piece per word.
    #[must_use]
    pub fn says(text: &str) -> Self {
        Self::pieces(text.split_inclusive(' '))
    }

    /// An answer of exactly these pieces.
    pub fn pieces(pieces: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            status: 200,
            headers: Vec::new(),
            content_type: None,
            body: None,
            error: None,
            pieces: pieces.into_iter().map(Into::into).collect(),
            call: None,
            finish: "stop".to_owned(),
            reported: Reported::Asked,
            prompt_tokens: 10,
            cached_tokens: 0,
            completion_tokens: None,
            reasoning_tokens: 0,
            done: true,
            before_head: Duration::ZERO,
            before_first: Duration::ZERO,
            between: Duration::ZERO,
            cut: None,
            hold: None,
            segment_bytes: None,
            between_segments: Duration::ZERO,
        }
    }

    /// A call of a tool, whatever is asked; `arguments` is JSON text.
    #[must_use]
    pub fn calls(tool: &str, arguments: &str) -> Self {
        let call = Some((tool.to_owned(), arguments.to_owned()));
        Self { call, ..Self::default() }
    }

    /// An error, given in OpenAI's words.
    #[must_use]
    pub fn error(status: u16, kind: &str, code: Option<&str>, message: &str) -> Self {
        let error = ErrorSaid {
            kind: kind.to_owned(),
            code: code.map(str::to_owned),
            message: message.to_owned(),
        };
        Self { status, error: Some(error), ..Self::default() }
    }

    /// A body that is no answer.
    #[must_use]
    pub fn body(content_type: &str, body: &str) -> Self {
        Self {
            content_type: Some(content_type.to_owned()),
            body: Some(body.to_owned()),
            ..Self::default()
        }
    }

    /// Reports so many prompt and answer tokens.
    #[must_use]
    pub fn using(mut self, prompt: u64, completion: u64) -> Self {
        self.prompt_tokens = prompt;
        self.completion_tokens = Some(completion);
        self
    }

    /// Reports that so many prompt tokens came from a cache.
    #[must_use]
    pub fn cached(mut self, tokens: u64) -> Self {
        self.cached_tokens = tokens;
        self
    }

    /// Reports that so many answer tokens were hidden reasoning.
    #[must_use]
    pub fn reasoning(mut self, tokens: u64) -> Self {
        self.reasoning_tokens = tokens;
        self
    }

    /// Reports usage in this way.
    #[must_use]
    pub fn reporting(mut self, reported: Reported) -> Self {
        self.reported = reported;
        self
    }

    /// Cuts the answer off.
    #[must_use]
    pub fn cut(mut self, cut: Cut) -> Self {
        self.cut = Some(cut);
        self
    }

    /// Holds an answer until it is let go.
    #[must_use]
    pub fn held(mut self, hold: &Hold) -> Self {
        self.hold = Some(hold.clone());
        self
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The script with a named fault in it.
    #[must_use]
    pub fn with(mut self, fault: Fault) -> Self {
        const SLOW: Duration = Duration::from_secs(2);
        match fault {
            Fault::RateLimited => {
                self =
                    Self::error(429, "rate_limit_error", Some("rate_limit_exceeded"), "Too many.")
                        .header("retry-after", "7");
            }
            Fault::Status500 => self = Self::error(500, "server_error", None, "It broke inside."),
            Fault::Status503 => self = Self::error(503, "server_error", None, "Overloaded."),
            Fault::Status400 => {
                self =
                    Self::error(400, "invalid_request_error", Some("bad_thing"), "No such thing.");
            }
            Fault::Status401 => {
                self =
                    Self::error(401, "authentication_error", Some("invalid_api_key"), "Wrong key.");
            }
            Fault::ResetBeforeHead => self.cut = Some(Cut::Reset(Point::Head)),
            Fault::ResetMidStream => self.cut = Some(Cut::Reset(Point::Piece(2))),
            Fault::CloseMidStream => self.cut = Some(Cut::Close(Point::Piece(2))),
            Fault::Hang => self.cut = Some(Cut::Hang(Point::Head)),
            Fault::HangAfterHead => self.cut = Some(Cut::Hang(Point::Piece(0))),
            Fault::HangMidStream => self.cut = Some(Cut::Hang(Point::Piece(2))),
            Fault::NoUsage => self.reported = Reported::Never,
            Fault::UsageTwice => self.reported = Reported::Twice,
            Fault::UsageInLastDelta => self.reported = Reported::InLastDelta,
            Fault::Split => self.segment_bytes = Some(1),
            Fault::Drip => {
                self.segment_bytes = Some(16);
                self.between_segments = Duration::from_millis(20);
            }
            Fault::WrongJson => self.body = Some("data: {\"choices\": [}\n\n".to_owned()),
            Fault::WrongContentType => self.content_type = Some("text/plain".to_owned()),
            Fault::Html => {
                self = Self::body("text/html", "<html><body>Bad gateway</body></html>");
            }
            Fault::HugeChunk => self.pieces = vec!["x".repeat(8 << 20)],
            Fault::NoDone => self.done = false,
            Fault::SlowHead => self.before_head = SLOW,
            Fault::SlowFirst => self.before_first = SLOW,
            Fault::SlowBetween => self.between = SLOW,
        }
        self
    }
}

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// A fault by name, for the binary's `--fault` and the header `x-standin-fault`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault { $($(#[$doc])* $name,)* }

        impl Fault {
            /// Every fault there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

faults! {
    /// 429 with a retry-after of 7 s.
    RateLimited = "429",
    /// 500.
    Status500 = "500",
    /// 503.
    Status503 = "503",
    /// 400 with a provider's error object.
    Status400 = "400",
    /// 401, as for a wrong provider key.
    Status401 = "401",
    /// The connection is reset before the head.
    ResetBeforeHead = "reset",
    /// The connection is reset after two pieces.
    ResetMidStream = "reset-mid",
    /// The connection is closed after two pieces.
    CloseMidStream = "close-mid",
    /// No byte ever comes.
    Hang = "hang",
    /// The head comes, and nothing after it.
    HangAfterHead = "hang-head",
    /// Two pieces come, and nothing after them.
    HangMidStream = "hang-mid",
    /// No usage is reported.
    NoUsage = "no-usage",
    /// Usage is reported twice.
    UsageTwice = "usage-twice",
    /// Usage comes with the finish reason.
    UsageInLastDelta = "usage-in-last",
    /// Every byte is a TCP segment of its own.
    Split = "split",
    /// A few bytes at a time, slowly.
    Drip = "drip",
    /// The body is not JSON; its content type is that of a good answer.
    WrongJson = "wrong-json",
    /// The content type is not the body's.
    WrongContentType = "wrong-type",
    /// An HTML page with status 200.
    Html = "html",
    /// One piece of 8 MiB.
    HugeChunk = "huge",
    /// A stream without `[DONE]`.
    NoDone = "no-done",
    /// Two seconds before the head.
    SlowHead = "slow-head",
    /// Two seconds before the first piece.
    SlowFirst = "slow-first",
    /// Two seconds between pieces.
    SlowBetween = "slow-between",
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|fault| fault.name() == name).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|fault| fault.name()).collect();
            format!("no such fault; there are {}", known.join(", "))
        })
    }
}
