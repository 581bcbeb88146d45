//! Which tokens the KV cells of all slots hold, as a radix tree: a path from a root is a slot's
//! tokens, and what two slots share is one node, as it is one run of cells in the cache. So one
//! structure answers both questions: whose cells does a prompt begin with, and how many cells
//! would be free if a slot gave up its own.
//!
//! **Invariant:** the lengths of all nodes sum to [`PrefixTree::cells`], and every node is held by
//! a slot or has a child. Prompts of different domains never meet, since each has its own root.

use std::collections::{BTreeMap, BTreeSet};

type NodeId = usize;

/// See the file's head.
#[derive(Debug)]
pub(crate) struct PrefixTree {
    nodes: Vec<Node>,
    free: Vec<NodeId>,
    roots: BTreeMap<u64, NodeId>,
    slots: Vec<End>,
    cells: usize,
}

/// Where a slot's tokens end.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    /// `None`: the slot is empty.
    node: Option<NodeId>,
    domain: u64,
}

#[derive(Debug, Default)]
struct Node {
    tokens: Vec<i32>,
    /// Tokens from the root to this node's end.
    depth: usize,
    parent: Option<NodeId>,
    children: Vec<NodeId>,
    /// The slots whose tokens end here.
    slots: Vec<usize>,
}

/// The longest prefix of a prompt that is in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its tokens, at least 1.
    pub(crate) keep: usize,
    /// The slots whose cells begin with it, at least one.
    pub(crate) holders: Vec<usize>,
}

impl PrefixTree {
    /// A tree of empty slots.
    pub(crate) fn new(slots: usize) -> PrefixTree {
        PrefixTree {
            nodes: Vec::new(),
            free: Vec::new(),
            roots: BTreeMap::new(),
            slots: vec![End::default(); slots],
            cells: 0,
        }
    }

    /// Cells in use; one that is shared counts once.
    pub(crate) fn cells(&self) -> usize {
        self.cells
    }

    /// Tokens in a slot's cells.
    pub(crate) fn len(&self, slot: usize) -> usize {
        self.slots[slot].node.map_or(0, |node| self.nodes[node].depth)
    }

    /// The longest prefix of `prompt` within a domain; none if not even its first token is there.
    pub(crate) fn longest(&self, domain: u64, prompt: &[i32]) -> Option<Found> {
        let root = *self.roots.get(&domain)?;
        let (mut best, mut keep) = (root, 0);
        // Runs that two slots computed at the same time are two nodes with equal tokens.
        let mut open = vec![(root, 0)];
        while let Some((at, matched)) = open.pop() {
            for child in &self.nodes[at].children {
                let node = &self.nodes[*child];
                let common = common_prefix(&node.tokens, &prompt[matched..]);
                if matched + common > keep {
                    (best, keep) = (*child, matched + common);
                }
                if common == node.tokens.len() {
                    open.push((*child, matched + common));
                }
            }
        }
        (keep > 0).then(|| Found { keep, holders: self.below(best) })
    }

    /// The tokens that a slot has in common with the beginning of a prompt of that domain.
    pub(crate) fn common(&self, slot: usize, domain: u64, prompt: &[i32]) -> usize {
        if self.slots[slot].domain != domain {
            return 0;
        }
        let mut common = 0;
        for node in self.path(slot).into_iter().rev() {
            let tokens = &self.nodes[node].tokens;
            let more = common_prefix(tokens, &prompt[common..]);
            common += more;
            if more < tokens.len() {
                break;
            }
        }
        common
    }

    /// Empties a slot for a sequence of that domain.
    pub(crate) fn enter(&mut self, slot: usize, domain: u64) {
        self.cut(slot, 0);
        self.slots[slot].domain = domain;
    }

    /// Adds computed tokens to a slot's end.
    pub(crate) fn extend(&mut self, slot: usize, tokens: &[i32]) {
        if tokens.is_empty() {
            return;
        }
        self.cells += tokens.len();
        let End { node, domain } = self.slots[slot];
        let parent = match node {
            Some(end)
                if self.nodes[end].children.is_empty() && self.nodes[end].slots.len() == 1 =>
            {
                let end = &mut self.nodes[end];
                end.tokens.extend_from_slice(tokens);
                end.depth += tokens.len();
                return;
            }
            Some(end) => end,
            None => self.root(domain),
        };
        let depth = self.nodes[parent].depth + tokens.len();
        let child = self.add(Node {
            tokens: tokens.to_vec(),
            depth,
            parent: Some(parent),
            ..Node::default()
        });
        self.nodes[parent].children.push(child);
        self.attach(slot, Some(child));
    }

    /// Keeps a slot's first `keep` tokens.
    pub(crate) fn cut(&mut self, slot: usize, keep: usize) {
        if keep < self.len(slot) {
            let node = self.node_at(slot, keep);
            self.attach(slot, node);
        }
    }

    /// Lets a slot begin with another one's first `keep` tokens, in the same cells.
    pub(crate) fn share(&mut self, from: usize, to: usize, keep: usize) {
        if from != to {
            let node = self.node_at(from, keep);
            self.attach(to, node);
            self.slots[to].domain = self.slots[from].domain;
        }
    }

    /// Lets a slot begin with a copy of another one's first `keep` tokens.
    pub(crate) fn copy(&mut self, from: usize, to: usize, keep: usize) {
        let mut tokens = self.tokens(from);
        tokens.truncate(keep);
        self.enter(to, self.slots[from].domain);
        self.extend(to, &tokens);
    }

    /// Lets two slots change places.
    pub(crate) fn swap(&mut self, one: usize, other: usize) {
        let ends = [one, other].map(|slot| self.slots[slot].node);
        self.slots.swap(one, other);
        if ends[0] == ends[1] {
            return;
        }
        for (node, (from, to)) in ends.into_iter().zip([(one, other), (other, one)]) {
            let slots = node.map(|node| &mut self.nodes[node].slots);
            for slot in slots.into_iter().flatten().filter(|slot| **slot == from) {
                *slot = to;
            }
        }
    }

    /// Cells that only this slot holds: what giving it up would free, all at its end.
    pub(crate) fn unique(&self, slot: usize) -> usize {
        let mut own = 0;
        for node in self.path(slot) {
            let node = &self.nodes[node];
            let branches = usize::from(own > 0);
            let others = node.slots.iter().any(|other| *other != slot);
            if others || node.children.len() > branches {
                break;
            }
            own += node.tokens.len();
        }
        own
    }

    /// The cells of some slots together.
    pub(crate) fn held(&self, slots: impl Iterator<Item = usize>) -> Held {
        let mut held = Held::default();
        for slot in slots {
            for node in self.path(slot) {
                if held.nodes.insert(node) {
                    held.cells += self.nodes[node].tokens.len();
                }
            }
        }
        held
    }

    /// How many of a slot's first `keep` cells are among `held`.
    pub(crate) fn held_of(&self, slot: usize, keep: usize, held: &Held) -> usize {
        let path = self.path(slot).into_iter().filter(|node| held.nodes.contains(node));
        path.map(|node| self.nodes[node].depth).max().unwrap_or(0).min(keep)
    }

    /// A slot's tokens.
    pub(crate) fn tokens(&self, slot: usize) -> Vec<i32> {
        let path = self.path(slot).into_iter().rev();
        path.flat_map(|node| self.nodes[node].tokens.iter().copied()).collect()
    }

    /// The nodes from a slot's end up to, and without, the root.
    fn path(&self, slot: usize) -> Vec<NodeId> {
        let mut path = Vec::new();
        let mut at = self.slots[slot].node;
        while let Some(node) = at {
            if self.nodes[node].parent.is_some() {
                path.push(node);
            }
            at = self.nodes[node].parent;
        }
        path
    }

    /// The slots that end in a node or below it.
    fn below(&self, node: NodeId) -> Vec<usize> {
        let (mut slots, mut open) = (Vec::new(), vec![node]);
        while let Some(node) = open.pop() {
            slots.extend_from_slice(&self.nodes[node].slots);
            open.extend_from_slice(&self.nodes[node].children);
        }
        slots
    }

    /// The node at whose end a slot's first `keep` tokens end, made if it must be.
    fn node_at(&mut self, slot: usize, keep: usize) -> Option<NodeId> {
        if keep == 0 {
            return None;
        }
        let begins_before = |node: &NodeId| {
            let node = &self.nodes[*node];
            node.depth - node.tokens.len() < keep
        };
        let node = self.path(slot).into_iter().find(begins_before)?;
        if self.nodes[node].depth <= keep {
            return Some(node);
        }
        // The lower part keeps its place in the arena: slots and children point at it.
        let own = keep - (self.nodes[node].depth - self.nodes[node].tokens.len());
        let rest = self.nodes[node].tokens.split_off(own);
        let tokens = std::mem::replace(&mut self.nodes[node].tokens, rest);
        let parent = self.nodes[node].parent;
        let upper =
            self.add(Node { tokens, depth: keep, parent, children: vec![node], slots: Vec::new() });
        self.nodes[node].parent = Some(upper);
        if let Some(parent) = parent {
            for child in &mut self.nodes[parent].children {
                if *child == node {
                    *child = upper;
                }
            }
        }
        Some(upper)
    }

    fn root(&mut self, domain: u64) -> NodeId {
        if let Some(root) = self.roots.get(&domain) {
            return *root;
        }
        let root = self.add(Node::default());
        self.roots.insert(domain, root);
        root
    }

    fn add(&mut self, node: Node) -> NodeId {
        match self.free.pop() {
            Some(id) => {
                self.nodes[id] = node;
                id
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        }
    }

    /// Moves a slot's end to another node and tidies up where it was.
    fn attach(&mut self, slot: usize, node: Option<NodeId>) {
        let before = std::mem::replace(&mut self.slots[slot].node, node);
        if let Some(node) = node {
            self.nodes[node].slots.push(slot);
        }
        if let Some(before) = before {
            let slots = &mut self.nodes[before].slots;
            if let Some(at) = slots.iter().position(|other| *other == slot) {
                slots.swap_remove(at);
            }
            self.tidy(before, self.slots[slot].domain);
        }
    }

    /// Removes what nobody holds any more, and joins a node to its only child.
    fn tidy(&mut self, mut at: NodeId, domain: u64) {
        while self.nodes[at].slots.is_empty() && self.nodes[at].children.is_empty() {
            let Node { tokens, parent, .. } = std::mem::take(&mut self.nodes[at]);
            self.cells -= tokens.len();
            self.free.push(at);
            let Some(parent) = parent else {
                self.roots.remove(&domain);
                return;
            };
            self.nodes[parent].children.retain(|child| *child != at);
            at = parent;
        }
        let Node { parent: Some(parent), children, slots, .. } = &self.nodes[at] else { return };
        let (parent, [child], []) = (*parent, children.as_slice(), slots.as_slice()) else {
            return;
        };
        let child = *child;
        let mut tokens = std::mem::take(&mut self.nodes[at]).tokens;
        self.free.push(at);
        tokens.append(&mut self.nodes[child].tokens);
        self.nodes[child].tokens = tokens;
        self.nodes[child].parent = Some(parent);
        for other in &mut self.nodes[parent].children {
            if *other == at {
                *other = child;
            }
        }
    }
}

/// Cells of several slots, each counted once.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) cells: usize,
    nodes: BTreeSet<NodeId>,
}

/// Tokens that two sequences begin with alike.
pub(crate) fn common_prefix(a: &[i32], b: &[i32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

#[cfg(test)]
mod tests {
    use super::{Found, PrefixTree};

    fn keep(tree: &PrefixTree, domain: u64, prompt: &[i32]) -> usize {
        tree.longest(domain, prompt).map_or(0, |found| found.keep)
    }

    #[test]
    fn a_shared_prefix_is_one_run_of_cells() {
        let mut tree = PrefixTree::new(3);
        tree.extend(0, &[1, 2, 3, 4]);
        assert_eq!(tree.longest(0, &[1, 2, 9]), Some(Found { keep: 2, holders: vec![0] }));
        tree.share(0, 1, 2);
        tree.extend(1, &[9, 9]);
        assert_eq!((tree.cells(), tree.len(1)), (6, 4), "4 and 4 tokens, 2 of them shared");
        assert_eq!(tree.tokens(1), [1, 2, 9, 9]);
        assert_eq!((tree.unique(0), tree.unique(1)), (2, 2));
        assert_eq!(keep(&tree, 0, &[1, 2, 9, 9, 9]), 4);
        tree.cut(0, 0);
        assert_eq!((tree.cells(), tree.unique(1)), (4, 4), "the other one's prefix stays");
    }

    #[test]
    fn domains_never_meet() {
        let mut tree = PrefixTree::new(2);
        tree.enter(0, 7);
        tree.extend(0, &[1, 2, 3]);
        assert_eq!((keep(&tree, 7, &[1, 2]), keep(&tree, 8, &[1, 2])), (2, 0));
    }

    #[test]
    fn a_cut_frees_what_nobody_else_holds() {
        let mut tree = PrefixTree::new(2);
        tree.extend(0, &[1, 2, 3, 4, 5, 6]);
        tree.share(0, 1, 4);
        tree.cut(0, 5);
        assert_eq!((tree.cells(), tree.len(0)), (5, 5));
        tree.cut(0, 2);
        assert_eq!(tree.cells(), 4, "the other slot holds 4");
        tree.cut(1, 0);
        assert_eq!((tree.cells(), tree.tokens(0)), (2, vec![1, 2]));
    }

    #[test]
    fn equal_runs_of_two_slots_count_twice_and_both_are_found() {
        let mut tree = PrefixTree::new(2);
        tree.extend(0, &[1, 2]);
        tree.extend(1, &[1, 2, 3]);
        assert_eq!(tree.cells(), 5);
        assert_eq!(tree.longest(0, &[1, 2, 3, 4]), Some(Found { keep: 3, holders: vec![1] }));
        let held = tree.held([0].into_iter());
        assert_eq!((held.cells, tree.held_of(0, 9, &held), tree.held_of(1, 9, &held)), (2, 2, 0));
    }

    #[test]
    fn a_copy_has_its_own_cells() {
        let mut tree = PrefixTree::new(2);
        tree.enter(0, 3);
        tree.extend(0, &[1, 2, 3]);
        tree.copy(0, 1, 2);
        assert_eq!((tree.cells(), tree.tokens(1), tree.unique(1)), (5, vec![1, 2], 2));
        tree.cut(0, 0);
        assert_eq!(keep(&tree, 3, &[1, 2]), 2);
    }

    /// A model beside it: each slot's tokens as a plain list. Whatever is done, tokens agree, and
    /// nothing is left when all is cut.
    #[test]
    fn it_holds_what_plain_lists_hold() {
        let mut state = 1_u64;
        let mut below = |limit: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(state >> 33).expect("small") % limit
        };
        let mut tree = PrefixTree::new(6);
        let mut lists: Vec<Vec<i32>> = vec![Vec::new(); 6];
        for _ in 0..20_000 {
            let (slot, other) = (below(6), below(6));
            match below(5) {
                4 => {
                    tree.swap(slot, other);
                    lists.swap(slot, other);
                }
                0 => {
                    let keep = below(lists[slot].len() + 1);
                    tree.cut(slot, keep);
                    lists[slot].truncate(keep);
                }
                1 if slot != other => {
                    let keep = below(lists[slot].len() + 1);
                    tree.share(slot, other, keep);
                    lists[other] = lists[slot][..keep].to_vec();
                }
                _ => {
                    let tokens = vec![i32::try_from(below(3)).expect("small"); 1 + below(4)];
                    tree.extend(slot, &tokens);
                    lists[slot].extend(tokens);
                }
            }
            for (slot, list) in lists.iter().enumerate() {
                assert_eq!(&tree.tokens(slot), list);
            }
            let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
            let all: usize = lists.iter().map(Vec::len).sum();
            assert!(tree.cells() >= longest && tree.cells() <= all);
            let held = tree.held(0..6);
            assert_eq!(held.cells, tree.cells(), "every cell is somebody's");
        }
        for slot in 0..6 {
            tree.cut(slot, 0);
        }
        assert_eq!((tree.cells(), tree.roots.len()), (0, 0));
        assert_eq!(tree.free.len(), tree.nodes.len(), "no node is left behind");
    }
}
