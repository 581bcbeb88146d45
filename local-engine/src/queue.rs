//! The jobs that wait, and whose turn it is. Higher priorities go first; within one, callers take
//! turns by deficit round robin: a caller's credit grows by a quantum each round, and a job goes
//! when the credit covers its tokens. So waiting callers get equal shares of tokens, however many
//! jobs or however long ones each has queued.
//!
//! **Invariant:** no more than `max` jobs wait, here and elsewhere. When it is full, the caller who has the most waiting
//! makes room for one who has clearly fewer: a flood displaces itself.

use std::collections::VecDeque;

use crate::{
    job::{Job, Priority},
    shared::Waiting,
};

/// Tokens a caller's credit grows by in a round.
const QUANTUM: u64 = 512;

/// See the file's head.
#[derive(Debug)]
pub(crate) struct FairQueue {
    flows: VecDeque<Flow>,
    len: usize,
    /// Jobs that were taken out and wait elsewhere: in the process that computes them.
    pub(crate) elsewhere: usize,
    max: usize,
}

/// One caller's jobs of one priority, oldest first.
#[derive(Debug)]
struct Flow {
    caller: u64,
    priority: Priority,
    credit: u64,
    jobs: VecDeque<Waiting>,
}

impl Flow {
    /// Its first job that may come in, with its place: other choices of a request wait until its
    /// prompt is in the cache.
    fn ready(&self) -> Option<(usize, &Waiting)> {
        self.jobs.iter().enumerate().find(|(_, waiting)| !waiting.held())
    }
}

/// What a job is served for: its prompt and its longest answer.
fn tokens(waiting: &Waiting) -> u64 {
    let prompt = u64::try_from(waiting.job.prompt.len()).unwrap_or(u64::MAX);
    prompt.saturating_add(u64::from(waiting.job.max_tokens))
}

impl FairQueue {
    /// An empty queue for at most `max` jobs.
    pub(crate) fn new(max: usize) -> FairQueue {
        FairQueue { flows: VecDeque::new(), len: 0, elsewhere: 0, max }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether so many more jobs may wait.
    pub(crate) fn has_room_for(&self, jobs: usize) -> bool {
        self.len.saturating_add(self.elsewhere).saturating_add(jobs) <= self.max
    }

    /// Adds a job at the end of its caller's.
    pub(crate) fn push(&mut self, waiting: Waiting) {
        let scheduling = waiting.job.scheduling;
        self.len += 1;
        let own = |flow: &&mut Flow| {
            flow.caller == scheduling.caller && flow.priority == scheduling.priority
        };
        if let Some(flow) = self.flows.iter_mut().find(own) {
            flow.jobs.push_back(waiting);
            return;
        }
        // A newcomer has what the others have left: it waits for no round that began before it.
        let equals = self.flows.iter().filter(|flow| flow.priority == scheduling.priority);
        let credit = equals.map(|flow| flow.credit).max().unwrap_or(0);
        self.flows.push_back(Flow {
            caller: scheduling.caller,
            priority: scheduling.priority,
            credit,
            jobs: VecDeque::from([waiting]),
        });
    }

    /// Takes out the newest request of the caller with the most waiting that has not begun, if that
    /// is at least two jobs more than `caller` has, so that one of `caller` finds room.
    pub(crate) fn displace_for(&mut self, caller: u64) -> Option<Waiting> {
        let waiting_of = |caller: u64| {
            let own = self.flows.iter().filter(|flow| flow.caller == caller);
            own.map(|flow| flow.jobs.len()).sum::<usize>()
        };
        let most = self.flows.iter().map(|flow| flow.caller).max_by_key(|at| waiting_of(*at))?;
        if waiting_of(most) < waiting_of(caller) + 2 {
            return None;
        }
        let flows = self.flows.iter_mut().filter(|flow| flow.caller == most);
        let flow = flows.max_by_key(|flow| flow.priority)?;
        let place = flow.jobs.iter().rposition(|waiting| !waiting.is_part())?;
        let newest = flow.jobs.remove(place);
        self.len -= usize::from(newest.is_some());
        self.flows.retain(|flow| !flow.jobs.is_empty());
        newest
    }

    /// Whose turn it is, without taking the job out: the answer stays the same until the job is
    /// taken, or one of a higher priority comes.
    pub(crate) fn next(&mut self) -> Option<&Job> {
        let at = self.turn()?;
        self.flows[at].ready().map(|(_, waiting)| &waiting.job)
    }

    /// Takes out the job whose turn it is. Its whole cap is charged; see [`FairQueue::give_back`].
    pub(crate) fn pop(&mut self) -> Option<Waiting> {
        let at = self.turn()?;
        let flow = &mut self.flows[at];
        let (place, _) = flow.ready()?;
        let waiting = flow.jobs.remove(place)?;
        flow.credit = flow.credit.saturating_sub(tokens(&waiting));
        self.len -= 1;
        if flow.jobs.is_empty() {
            // Who does not wait saves nothing up.
            self.flows.remove(at);
        }
        Some(waiting)
    }

    /// A job used fewer tokens than it was charged: its caller, if it still waits, is served as if
    /// only what was used had been charged.
    pub(crate) fn give_back(&mut self, caller: u64, priority: Priority, tokens: u64) {
        let own = |flow: &&mut Flow| flow.caller == caller && flow.priority == priority;
        if let Some(flow) = self.flows.iter_mut().find(own) {
            flow.credit = flow.credit.saturating_add(tokens);
        }
    }

    /// Takes out all jobs that `gone` names.
    pub(crate) fn take(&mut self, gone: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let mut taken = Vec::new();
        for flow in &mut self.flows {
            for waiting in std::mem::take(&mut flow.jobs) {
                if gone(&waiting) {
                    taken.push(waiting);
                } else {
                    flow.jobs.push_back(waiting);
                }
            }
        }
        self.flows.retain(|flow| !flow.jobs.is_empty());
        self.len -= taken.len();
        taken
    }

    /// All jobs: by priority, within it callers as they take turns.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        let mut flows: Vec<&Flow> = self.flows.iter().collect();
        flows.sort_by_key(|flow| flow.priority);
        flows.into_iter().flat_map(|flow| &flow.jobs)
    }

    /// All jobs, in no order.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Waiting> {
        self.flows.iter_mut().flat_map(|flow| &mut flow.jobs)
    }

    /// The flow whose turn it is; gives rounds of credit until there is one.
    fn turn(&mut self) -> Option<usize> {
        let ready = self.flows.iter().filter(|flow| flow.ready().is_some());
        let urgent = ready.map(|flow| flow.priority).min()?;
        let short = |flow: &Flow| {
            let needed = flow.ready().map_or(0, |(_, waiting)| tokens(waiting));
            needed.saturating_sub(flow.credit).div_ceil(QUANTUM)
        };
        let of_turn = |flow: &&Flow| flow.priority == urgent && flow.ready().is_some();
        // As many rounds at once as the first to be covered needs.
        let rounds = self.flows.iter().filter(of_turn).map(short).min()?;
        for flow in self.flows.iter_mut().filter(|flow| flow.priority == urgent) {
            flow.credit = flow.credit.saturating_add(rounds * QUANTUM);
        }
        // Of those covered the one served least: callers alternate job by job.
        let covered = |(_, flow): &(usize, &Flow)| of_turn(flow) && short(flow) == 0;
        let flows = self.flows.iter().enumerate().filter(covered);
        flows.min_by_key(|(_, flow)| std::cmp::Reverse(flow.credit)).map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::FairQueue;
    use crate::{
        job::{Job, Priority, Scheduling},
        meter::Meter,
        outbox::Outbox,
        scheduler_tests::greedy,
        shared::Waiting,
    };

    fn job(caller: u64, priority: Priority, prompt: usize, max_tokens: u32) -> Waiting {
        let (outbox, events) = Outbox::new(4, Arc::new(Meter::default())).expect("a new channel");
        // Nobody reads these; the queue does not look.
        drop(events);
        let job = Job {
            max_tokens,
            scheduling: Scheduling { caller, priority, queue_wait_max: None, follows: false },
            ..greedy(&vec![1; prompt])
        };
        Waiting {
            job,
            outbox,
            submitted: Instant::now(),
            predicted: None,
            after: None,
            behind: false,
        }
    }

    /// Who is served, in order.
    fn served(queue: &mut FairQueue, count: usize) -> Vec<u64> {
        let next = |queue: &mut FairQueue| {
            let peeked = queue.next()?.scheduling.caller;
            let taken = queue.pop()?.job.scheduling.caller;
            assert_eq!(peeked, taken, "who is next is who is taken");
            Some(taken)
        };
        (0..count).map_while(|_| next(queue)).collect()
    }

    #[test]
    fn one_caller_is_served_in_order_of_arrival() {
        let mut queue = FairQueue::new(9);
        for prompt in [5, 900, 7] {
            queue.push(job(1, Priority::Normal, prompt, 10));
        }
        let prompts: Vec<usize> =
            std::iter::from_fn(|| queue.pop()).map(|waiting| waiting.job.prompt.len()).collect();
        assert_eq!((prompts, queue.len()), (vec![5, 900, 7], 0));
    }

    #[test]
    fn a_flood_does_not_hold_up_the_caller_behind_it() {
        let mut queue = FairQueue::new(99);
        for _ in 0..20 {
            queue.push(job(1, Priority::Normal, 100, 100));
        }
        queue.push(job(2, Priority::Normal, 100, 100));
        queue.push(job(2, Priority::Normal, 100, 100));
        let order = served(&mut queue, 6);
        assert_eq!(order.iter().filter(|caller| **caller == 2).count(), 2, "{order:?}");
    }

    #[test]
    fn callers_share_tokens_and_not_jobs() {
        let mut queue = FairQueue::new(999);
        for _ in 0..200 {
            queue.push(job(1, Priority::Normal, 950, 50));
            queue.push(job(2, Priority::Normal, 150, 50));
        }
        let order = served(&mut queue, 120);
        let large = order.iter().filter(|caller| **caller == 1).count();
        assert!((18..=22).contains(&large), "a fifth of the jobs are five times as long: {large}");
    }

    #[test]
    fn what_was_not_used_is_given_back() {
        let mut queue = FairQueue::new(999);
        for _ in 0..200 {
            queue.push(job(1, Priority::Normal, 100, 900));
            queue.push(job(2, Priority::Normal, 100, 100));
        }
        let mut first = 0;
        for _ in 0..100 {
            let taken = queue.pop().expect("many wait").job;
            if taken.scheduling.caller == 1 {
                first += 1;
                queue.give_back(1, Priority::Normal, 800);
            }
        }
        assert!((45..=55).contains(&first), "equal use, equal turns: {first}");
    }

    #[test]
    fn a_higher_priority_goes_first() {
        let mut queue = FairQueue::new(9);
        queue.push(job(1, Priority::Low, 5, 5));
        queue.push(job(2, Priority::Normal, 5, 5));
        queue.push(job(3, Priority::High, 5, 5));
        queue.push(job(4, Priority::Normal, 5, 5));
        assert_eq!(served(&mut queue, 9), [3, 2, 4, 1]);
    }

    #[test]
    fn a_full_queue_makes_room_for_who_has_clearly_fewer() {
        let mut queue = FairQueue::new(3);
        for prompt in [1, 2, 3] {
            queue.push(job(1, Priority::Normal, prompt, 5));
        }
        assert!(!queue.has_room_for(1) && queue.displace_for(1).is_none(), "not for itself");
        let displaced = queue.displace_for(2).expect("three against none");
        assert_eq!(displaced.job.prompt.len(), 3, "the newest goes");
        queue.push(job(2, Priority::Normal, 5, 5));
        assert!(queue.displace_for(2).is_none(), "two against one is no flood");
    }

    #[test]
    fn a_request_makes_room_as_a_whole_or_not_at_all() {
        let part = |prompt| {
            let mut part = job(1, Priority::Normal, prompt, 5);
            part.job.scheduling.follows = true;
            part
        };
        let mut queue = FairQueue::new(4);
        queue.push(job(1, Priority::Normal, 1, 5));
        [2, 3, 4].map(part).into_iter().for_each(|part| queue.push(part));
        let displaced = queue.displace_for(2).expect("four against none");
        assert_eq!(displaced.job.prompt.len(), 1, "the others are worth nothing without it");
        assert!(queue.displace_for(2).is_none(), "the others follow one that runs");
        assert_eq!(queue.len(), 3);
    }

    #[test]
    fn those_named_are_taken_out() {
        let mut queue = FairQueue::new(9);
        for caller in [1, 2, 1] {
            queue.push(job(caller, Priority::Normal, 5, 5));
        }
        let gone = queue.take(|waiting| waiting.job.scheduling.caller == 1);
        assert_eq!((gone.len(), queue.len(), queue.iter().count()), (2, 1, 1));
        assert_eq!(served(&mut queue, 9), [2]);
        assert!(queue.is_empty());
        let mut own = job(1, Priority::Normal, 5, 5);
        assert_eq!(own.wait_max(Duration::from_secs(5)), Duration::from_secs(5));
        own.job.scheduling.queue_wait_max = Some(Duration::from_secs(2));
        assert_eq!(own.wait_max(Duration::from_secs(5)), Duration::from_secs(2));
    }
}
