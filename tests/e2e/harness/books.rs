//! Looking into the ledger, the budgets and the reservations, as an operator would.

use super::{Child, Gate, Key, child::Ran, eventually};
use serde_json::Value;

/// What a test reads from the books.
pub(crate) struct Books<'g>(&'g Gate);

/// An entry of the ledger as the admin API shows it.
#[derive(Clone, Debug)]
pub(crate) struct EntrySeen(pub(crate) Value);

/// An attempt of an entry.
#[derive(Clone, Debug)]
pub(crate) struct AttemptSeen(pub(crate) Value);

/// The only budget of a key.
#[derive(Clone, Debug)]
pub(crate) struct BudgetSeen(Value);

impl Gate {
    /// The books.
    pub(crate) fn ledger(&self) -> Books<'_> {
        Books(self)
    }

    /// The only budget of this key.
    pub(crate) async fn budget(&self, key: &Key) -> BudgetSeen {
        let all = self.admin("/budgets").await;
        let of_key: Vec<_> =
            rows(&all).into_iter().filter(|row| row.to_string().contains(&key.id)).collect();
        assert_eq!(of_key.len(), 1, "one budget of {}: {all}", key.id);
        BudgetSeen(of_key[0].clone())
    }

    /// Reservations that are open now.
    pub(crate) async fn reservations(&self) -> Vec<Value> {
        rows(&self.admin("/reservations").await)
    }

    /// `tollgate ledger verify` on the files, while no server holds them.
    pub(crate) async fn ledger_verify(&self) -> Ran {
        let config = self.builder_ref().config_file();
        let directory = config.parent().expect("a directory");
        Child::run(directory, &["ledger", "verify", "--config", "tollgate.toml", "--json"]).await
    }

    /// Waits until no reservation is open.
    pub(crate) async fn until_nothing_is_reserved(&self) {
        eventually("every reservation to end", || async {
            self.reservations().await.is_empty().then_some(())
        })
        .await;
    }
}

impl Books<'_> {
    /// Every entry, oldest first; of each is true what is true of every entry.
    pub(crate) async fn entries(&self) -> Vec<EntrySeen> {
        let mut entries = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.0.admin(&format!("/ledger/requests?limit=100{cursor}")).await;
            entries.extend(rows(&page).into_iter().map(EntrySeen));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        for entry in &entries {
            entry.adds_up();
        }
        entries.sort_by_key(EntrySeen::id);
        entries
    }

    /// The only entry.
    pub(crate) async fn only_entry(&self) -> EntrySeen {
        let mut entries = self.entries().await;
        assert_eq!(entries.len(), 1, "one entry: {entries:#?}");
        // The list may be brief: by its id an entry is whole.
        let id = entries.remove(0).id();
        self.entry(&id).await
    }

    /// The entry with this id, whole, of which is true what is true of every entry. Where no answer was
    /// given nothing waits for the entry's commit, so neither does this sentence promise that it is there
    /// at once; `crash` does.
    pub(crate) async fn entry(&self, id: &str) -> EntrySeen {
        let path = format!("/ledger/requests/{id}");
        let entry = eventually(&format!("the entry {id}"), || async {
            let answer = self.0.admin_send("GET", &path, Value::Null).await;
            (answer.status == 200).then(|| EntrySeen(answer.json()))
        })
        .await;
        entry.adds_up();
        entry
    }

    /// Waits until there are so many entries; more are a failure.
    pub(crate) async fn until_entries(&self, count: usize) -> Vec<EntrySeen> {
        eventually(&format!("{count} entries"), || async {
            let entries = self.entries().await;
            assert!(entries.len() <= count, "{} entries, not {count}", entries.len());
            (entries.len() == count).then_some(entries)
        })
        .await
    }
}

impl EntrySeen {
    /// Its id.
    pub(crate) fn id(&self) -> String {
        self.text("id")
    }

    /// A field that is text.
    pub(crate) fn text(&self, field: &str) -> String {
        self.0[field].as_str().unwrap_or_else(|| panic!("no {field} in {:#}", self.0)).to_owned()
    }

    /// How it ended.
    pub(crate) fn outcome(&self) -> String {
        self.text("outcome")
    }

    /// The rule that decided.
    pub(crate) fn rule(&self) -> String {
        self.0["decision"]["rule"].as_str().expect("a rule").to_owned()
    }

    /// What it cost, in pico-USD; `None` where unknown.
    pub(crate) fn cost(&self) -> Option<u128> {
        pico(&self.0["cost_usd"])
    }

    /// Its attempts.
    pub(crate) fn attempts(&self) -> Vec<AttemptSeen> {
        self.0["attempts"].as_array().expect("attempts").iter().cloned().map(AttemptSeen).collect()
    }

    /// Its only attempt.
    pub(crate) fn only_attempt(&self) -> AttemptSeen {
        let mut attempts = self.attempts();
        assert_eq!(attempts.len(), 1, "one attempt: {attempts:#?}");
        attempts.remove(0)
    }

    /// Asserts what is true of every entry, as for each that a test looks at: its cost is the sum of
    /// its attempts', its stages are adjacent and sum to its time, and so are its attempts' parts.
    pub(crate) fn adds_up(&self) -> &Self {
        let costs: Vec<_> = self.attempts().iter().map(AttemptSeen::cost).collect();
        let sum = costs.iter().copied().try_fold(0, |sum, cost| Some(sum + cost?));
        assert_eq!(self.cost(), sum, "the cost is the sum of the attempts': {:#}", self.0);
        let stages = self.0["stages"].as_object().expect("stages");
        let part = |name: &str| stages[name].as_u64().unwrap_or_else(|| panic!("no {name}"));
        let parts = [
            "identify_us",
            "admit_us",
            "read_us",
            "decide_us",
            "attempt_us",
            "relay_us",
            "settle_us",
        ];
        let total = self.0["total_us"].as_u64().expect("a total");
        assert_eq!(parts.iter().map(|name| part(name)).sum::<u64>(), total, "{:#}", self.0);
        for attempt in self.attempts() {
            let until_first = attempt.time("head_us") + attempt.time("first_token_us");
            let ttft = attempt.0["times"]["ttft_us"].as_u64();
            assert!(ttft.is_none_or(|ttft| ttft == until_first), "{:#}", attempt.0);
        }
        self
    }
}

impl AttemptSeen {
    /// A field that is text.
    pub(crate) fn text(&self, field: &str) -> String {
        self.0[field].as_str().unwrap_or_else(|| panic!("no {field} in {:#}", self.0)).to_owned()
    }

    /// The route.
    pub(crate) fn route(&self) -> String {
        self.text("route")
    }

    /// How it ended.
    pub(crate) fn outcome(&self) -> String {
        self.text("outcome")
    }

    /// What it cost, in pico-USD; `None` where unknown.
    pub(crate) fn cost(&self) -> Option<u128> {
        pico(&self.0["cost_usd"])
    }

    /// What was held while it ran, in pico-USD.
    pub(crate) fn reserved(&self) -> u128 {
        pico(&self.0["reserved_usd"]).expect("an amount")
    }

    /// One of its times.
    pub(crate) fn time(&self, part: &str) -> u64 {
        let time = self.0["times"][part].as_u64();
        time.unwrap_or_else(|| panic!("no {part} in {:#}", self.0))
    }

    /// From its start to its end, in microseconds.
    pub(crate) fn took_us(&self) -> u64 {
        ["wait_us", "head_us", "first_token_us", "stream_us"]
            .map(|part| self.time(part))
            .iter()
            .sum()
    }

    /// A bucket of its usage; `None` where nobody knows.
    pub(crate) fn used(&self, bucket: &str) -> Option<u64> {
        self.0["usage"][bucket].as_u64()
    }
}

impl BudgetSeen {
    /// Spent and settled, in pico-USD.
    pub(crate) fn spent(&self) -> u128 {
        pico(&self.0["spent_usd"]).expect("an amount")
    }

    /// Held for attempts that run, in pico-USD.
    pub(crate) fn reserved(&self) -> u128 {
        pico(&self.0["reserved_usd"]).expect("an amount")
    }

    /// Requests that wait for it.
    pub(crate) fn waiting(&self) -> u64 {
        self.0["waiting"].as_u64().expect("a count")
    }

    /// Tokens spent and settled.
    pub(crate) fn spent_tokens(&self) -> u64 {
        self.0["spent_tokens"].as_u64().expect("a count")
    }
}

/// The rows of a list.
pub(crate) fn rows(list: &Value) -> Vec<Value> {
    list["data"].as_array().unwrap_or_else(|| panic!("no data in {list}")).clone()
}

/// A decimal string of US dollars in pico-USD, exactly.
pub(crate) fn pico(amount: &Value) -> Option<u128> {
    let text = amount.as_str()?;
    let amount: policies::PicoUsdTotal = text.parse().expect("an amount in USD");
    Some(amount.pico())
}
