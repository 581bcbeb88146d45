//! The jobs that wait, and whose turn it is. Higher priorities go first; within one, callers take
//! turns by start-time fair queueing: the job of the caller who was served the fewest tokens goes
//! next. So waiting callers get equal shares of tokens, however many jobs or however long ones each
//! has queued. Who comes begins where the last job that went began: nothing is saved up, and a caller
//! whose last job has just left the queue is still known to be ahead of that.
//!
//! **Invariant:** no more than `max` jobs wait, here and elsewhere. When it is full, the caller who has
//! the most waiting makes room for one who has clearly fewer: a flood displaces itself.

use std::collections::{BTreeMap, VecDeque};

use crate::{job::Priority, shared::Waiting, status::count64};

/// Callers of whom no job waits and of whom it is still known what they were served.
const REMEMBERED_MAX: usize = 1_024;
/// Jobs of one caller that are looked at for a prediction.
const SEEN_MAX: usize = 1_024;

/// What waits in a queue: a job, or what is known of one that is only played through.
pub(crate) trait Waits {
    /// Whose it is.
    fn caller(&self) -> u64;
    /// How urgent it is.
    fn priority(&self) -> Priority;
    /// What it is served for: its prompt and its longest answer.
    fn tokens(&self) -> u64;
    /// Whether it may not come in yet.
    fn held(&self) -> bool;
    /// Whether it is a part of a request that has begun.
    fn is_part(&self) -> bool;
}

/// See the file's head.
#[derive(Debug)]
pub(crate) struct FairQueue<W = Waiting> {
    flows: VecDeque<Flow<W>>,
    /// Where the last job that went began, of each priority.
    begun: BTreeMap<Priority, u64>,
    len: usize,
    /// Jobs that were taken out and wait elsewhere: in the process that computes them.
    pub(crate) elsewhere: usize,
    max: usize,
}

/// One caller's jobs of one priority, oldest first.
#[derive(Debug)]
struct Flow<W> {
    caller: u64,
    priority: Priority,
    /// Tokens it was served, counted from where it began.
    served: u64,
    /// Where it began: what it is given back of jobs from before takes it no further back.
    began: u64,
    jobs: VecDeque<W>,
}

impl<W: Waits> Flow<W> {
    /// Its first job that may come in, with its place: other choices of a request wait until its
    /// prompt is in the cache.
    fn ready(&self) -> Option<(usize, &W)> {
        self.jobs.iter().enumerate().find(|(_, waiting)| !waiting.held())
    }

    fn waits(&self) -> bool {
        !self.jobs.is_empty()
    }
}

impl Waits for Waiting {
    fn caller(&self) -> u64 {
        self.job.scheduling.caller
    }

    fn priority(&self) -> Priority {
        self.job.scheduling.priority
    }

    fn tokens(&self) -> u64 {
        count64(self.job.prompt.len()).saturating_add(u64::from(self.job.max_tokens))
    }

    fn held(&self) -> bool {
        Waiting::held(self)
    }

    fn is_part(&self) -> bool {
        Waiting::is_part(self)
    }
}

impl<W: Waits> FairQueue<W> {
    /// An empty queue for at most `max` jobs.
    pub(crate) fn new(max: usize) -> FairQueue<W> {
        FairQueue { flows: VecDeque::new(), begun: BTreeMap::new(), len: 0, elsewhere: 0, max }
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
    pub(crate) fn push(&mut self, waiting: W) {
        let (caller, priority) = (waiting.caller(), waiting.priority());
        self.len += 1;
        let own = |flow: &Flow<W>| flow.caller == caller && flow.priority == priority;
        let known = self.flows.iter().position(own);
        if let Some(flow) = known.and_then(|at| self.flows.get_mut(at)).filter(|flow| flow.waits())
        {
            flow.jobs.push_back(waiting);
            return;
        }
        let known = known.and_then(|at| self.flows.remove(at));
        let began = self.beginning(priority);
        self.flows.push_back(Flow {
            caller,
            priority,
            served: known.map_or(began, |flow| flow.served.max(began)),
            began,
            jobs: VecDeque::from([waiting]),
        });
    }

    /// Where a newcomer begins.
    fn beginning(&self, priority: Priority) -> u64 {
        self.begun.get(&priority).copied().unwrap_or(0)
    }

    /// Takes out the newest request of the caller with the most waiting that may make room, if that
    /// is at least two jobs more than `caller` has, so that one of `caller` finds room. What has begun
    /// makes none, nor what is more urgent than the newcomer's `priority`.
    pub(crate) fn displace_for(&mut self, caller: u64, priority: Priority) -> Option<W> {
        let own = self.flows.iter().filter(|flow| flow.caller == caller);
        let has: usize = own.map(|flow| flow.jobs.len()).sum();
        let may_go = |flow: &&Flow<W>| flow.priority >= priority && flow.caller != caller;
        let going = |caller: u64| -> usize {
            let flows = self.flows.iter().filter(may_go).filter(|flow| flow.caller == caller);
            flows.map(|flow| flow.jobs.len()).sum()
        };
        let callers = self.flows.iter().filter(may_go).map(|flow| flow.caller);
        let most = callers.max_by_key(|caller| going(*caller))?;
        if going(most) < has + 2 {
            return None;
        }
        let flows = self.flows.iter_mut().filter(|flow| flow.caller == most && flow.waits());
        let flow = flows.max_by_key(|flow| flow.priority)?;
        let place = flow.jobs.iter().rposition(|waiting| !waiting.is_part())?;
        let newest = flow.jobs.remove(place);
        self.len -= usize::from(newest.is_some());
        self.forget();
        newest
    }

    /// Whose turn it is, without taking the job out.
    pub(crate) fn next(&self) -> Option<&W> {
        let at = self.turn()?;
        self.flows[at].ready().map(|(_, waiting)| waiting)
    }

    /// Takes out the job whose turn it is. Its whole cap is charged; see [`FairQueue::give_back`].
    pub(crate) fn pop(&mut self) -> Option<W> {
        let at = self.turn()?;
        let flow = &mut self.flows[at];
        let (place, _) = flow.ready()?;
        let waiting = flow.jobs.remove(place)?;
        let (priority, before) = (flow.priority, flow.served);
        flow.served = before.saturating_add(waiting.tokens());
        self.begin_at(priority, before);
        self.len -= 1;
        self.forget();
        Some(waiting)
    }

    /// A job used fewer tokens than it was charged: its caller, if it is still known, is served as if
    /// only what was used had been charged.
    pub(crate) fn give_back(&mut self, caller: u64, priority: Priority, tokens: u64) {
        let own = |flow: &&mut Flow<W>| flow.caller == caller && flow.priority == priority;
        if let Some(flow) = self.flows.iter_mut().find(own) {
            flow.served = flow.served.saturating_sub(tokens).max(flow.began);
        }
    }

    /// Forgets the callers of whom no job waits and who are not ahead of a newcomer; where nobody waits,
    /// all.
    fn forget(&mut self) {
        for priority in [Priority::High, Priority::Normal, Priority::Low] {
            let begun = self.beginning(priority);
            let waits = self.flows.iter().any(|flow| flow.priority == priority && flow.waits());
            let ahead = |flow: &Flow<W>| waits && flow.served > begun;
            self.flows.retain(|flow| flow.priority != priority || flow.waits() || ahead(flow));
        }
        while self.flows.iter().filter(|flow| !flow.waits()).count() > REMEMBERED_MAX {
            self.forget_least();
        }
    }

    /// Forgets one who is ahead; newcomers begin there from now on. Else who is ahead, and waits, might
    /// wait for ever for those who come and are forgotten.
    fn forget_least(&mut self) {
        let idle = self.flows.iter().enumerate().filter(|(_, flow)| !flow.waits());
        let least = idle.min_by_key(|(_, flow)| flow.served).map(|(at, _)| at);
        let Some(gone) = least.and_then(|at| self.flows.remove(at)) else { return };
        self.begin_at(gone.priority, gone.served);
    }

    /// Newcomers begin there, unless that is further on already.
    fn begin_at(&mut self, priority: Priority, served: u64) {
        let begun = self.begun.entry(priority).or_default();
        *begun = served.max(*begun);
    }

    /// Takes out all jobs that `gone` names.
    pub(crate) fn take(&mut self, gone: impl Fn(&W) -> bool) -> Vec<W> {
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
        self.len -= taken.len();
        self.forget();
        taken
    }

    /// All jobs, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &W> {
        self.flows.iter().flat_map(|flow| &flow.jobs)
    }

    /// All jobs, in no order.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut W> {
        self.flows.iter_mut().flat_map(|flow| &mut flow.jobs)
    }

    /// A queue in which each job, as `seen` makes it, waits as it does here, for a newcomer of `caller`
    /// to take its turn in: who waits nowhere and is not `caller` has no part in that. Of one caller's
    /// jobs of a priority no more than [`SEEN_MAX`] are looked at.
    pub(crate) fn seen_by<V>(&self, caller: Option<u64>, seen: impl Fn(&W) -> V) -> FairQueue<V> {
        let flows = self.flows.iter().filter(|flow| flow.waits() || Some(flow.caller) == caller);
        let flows: VecDeque<Flow<V>> = flows
            .map(|flow| Flow {
                caller: flow.caller,
                priority: flow.priority,
                served: flow.served,
                began: flow.began,
                jobs: flow.jobs.iter().take(SEEN_MAX).map(&seen).collect(),
            })
            .collect();
        let len = flows.iter().map(|flow| flow.jobs.len()).sum();
        FairQueue { flows, begun: self.begun.clone(), len, elsewhere: 0, max: self.max }
    }

    /// The flow whose turn it is.
    fn turn(&self) -> Option<usize> {
        let ready = self.flows.iter().enumerate().filter(|(_, flow)| flow.ready().is_some());
        ready.min_by_key(|(_, flow)| (flow.priority, flow.served)).map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::{FairQueue, REMEMBERED_MAX};
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
            let peeked = queue.next()?.job.scheduling.caller;
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

    /// With a slot for one, a caller who keeps two requests going always has one that waits while the
    /// other runs.
    #[test]
    fn a_refund_is_no_credit() {
        let mut queue = FairQueue::new(9);
        queue.push(job(1, Priority::Normal, 10, 3000));
        queue.push(job(2, Priority::Normal, 10, 3000));
        let mut order = Vec::new();
        for _ in 0..6 {
            let caller = queue.pop().expect("two wait").job.scheduling.caller;
            queue.push(job(caller, Priority::Normal, 10, 3000));
            queue.give_back(caller, Priority::Normal, 2990);
            order.push(caller);
        }
        assert_eq!(order, [1, 2, 1, 2, 1, 2]);
    }

    #[test]
    fn a_refund_of_a_forgotten_job_takes_nobody_back() {
        let mut queue = FairQueue::new(9);
        queue.push(job(1, Priority::Normal, 10, 990));
        assert_eq!(served(&mut queue, 1), [1]);
        for _ in 0..2 {
            queue.push(job(2, Priority::Normal, 10, 490));
        }
        assert_eq!(served(&mut queue, 2), [2, 2]);
        for caller in [3, 1, 3, 1] {
            queue.push(job(caller, Priority::Normal, 10, 490));
        }
        queue.give_back(1, Priority::Normal, 990);
        assert_eq!(served(&mut queue, 4), [3, 1, 3, 1], "its job was charged to nobody here");
    }

    /// Small jobs that come one after another do not keep a large one waiting.
    #[test]
    fn who_leaves_the_queue_and_comes_back_is_known() {
        let mut queue = FairQueue::new(9);
        queue.push(job(1, Priority::Normal, 10, 90));
        queue.push(job(2, Priority::Normal, 10, 3000));
        let mut order = Vec::new();
        for _ in 0..34 {
            let caller = queue.pop().expect("two wait").job.scheduling.caller;
            let answer = if caller == 1 { 90 } else { 3000 };
            queue.push(job(caller, Priority::Normal, 10, answer));
            order.push(caller);
        }
        assert_eq!(order[..2], [1, 2]);
        assert_eq!(order.iter().filter(|caller| **caller == 2).count(), 2, "one for 31 small ones");
    }

    #[test]
    fn callers_without_end_are_forgotten_and_hold_nobody_up() {
        let mut queue = FairQueue::new(9);
        queue.push(job(0, Priority::Normal, 10, 190));
        queue.push(job(0, Priority::Normal, 10, 190));
        queue.push(job(1, Priority::Normal, 10, 90));
        let mut last = 1;
        let mut served = 0;
        while queue.len() == 3 || served == 0 {
            let caller = queue.pop().expect("some wait").job.scheduling.caller;
            served += usize::from(caller == 0);
            if served < 2 && queue.len() < 3 {
                last += 1;
                queue.push(job(last, Priority::Normal, 10, 90));
            }
            assert!(queue.flows.len() < REMEMBERED_MAX + 9 && last < 9_999);
        }
        assert_eq!(served, 2, "and not only the newcomers");
        while queue.pop().is_some() {}
        assert!(queue.flows.is_empty());
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
        assert!(
            !queue.has_room_for(1) && queue.displace_for(1, Priority::Normal).is_none(),
            "not for itself"
        );
        let displaced = queue.displace_for(2, Priority::Normal).expect("three against none");
        assert_eq!(displaced.job.prompt.len(), 3, "the newest goes");
        queue.push(job(2, Priority::Normal, 5, 5));
        assert!(queue.displace_for(2, Priority::Normal).is_none(), "two against one is no flood");
    }

    #[test]
    fn nobody_makes_room_for_what_is_less_urgent() {
        let mut queue = FairQueue::new(9);
        for prompt in [1, 2, 3, 4] {
            queue.push(job(1, Priority::Normal, prompt, 5));
        }
        assert!(queue.displace_for(2, Priority::Low).is_none());
        for prompt in [7, 8] {
            queue.push(job(3, Priority::Low, prompt, 5));
        }
        let displaced = queue.displace_for(2, Priority::Low).expect("two of its own kind");
        assert_eq!(displaced.job.prompt.len(), 8);
        let displaced = queue.displace_for(2, Priority::High).expect("four of a lower one");
        assert_eq!(displaced.job.prompt.len(), 4);
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
        let displaced = queue.displace_for(2, Priority::Normal).expect("four against none");
        assert_eq!(displaced.job.prompt.len(), 1, "the others are worth nothing without it");
        assert!(
            queue.displace_for(2, Priority::Normal).is_none(),
            "the others follow one that runs"
        );
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
