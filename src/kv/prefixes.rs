//! [`Prefixes`]: blocks of tokens that were evaluated, found again by the tokens.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::block::Block;
use super::lineage::Recipe;
use super::shape::BLOCK;

type NodeId = u64;

/// A tree for each recipe: below a block of [`BLOCK`] tokens are those that came
/// behind it. Blocks of fewer tokens have nothing below them.
#[derive(Default)]
pub struct Prefixes {
    nodes: BTreeMap<NodeId, Node>,
    roots: Vec<(Arc<Recipe>, Vec<NodeId>)>,
    next_id: NodeId,
    clock: u64,
}

struct Node {
    tokens: Box<[i32]>,
    block: Arc<Block>,
    parent: Option<NodeId>,
    children: Vec<NodeId>,
    /// Never later than its parent's.
    last_use: u64,
}

impl Node {
    fn common(&self, tokens: &[i32]) -> usize {
        common_prefix(&self.tokens, tokens)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.block.keep(false);
    }
}

/// How many tokens two texts begin with alike.
pub fn common_prefix(a: &[i32], b: &[i32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Prefixes {
    /// The blocks of the longest known beginning of `tokens`, and how many tokens of
    /// it they hold.
    pub fn find(&mut self, recipe: &Arc<Recipe>, tokens: &[i32]) -> (Vec<Arc<Block>>, usize) {
        let (mut blocks, mut n_tokens) = (Vec::new(), 0);
        let mut parent = None;
        self.clock += 1;
        while let Some((id, n)) = self.closest(recipe, parent, &tokens[n_tokens..]) {
            let node = self.touch(id);
            blocks.push(node.block.clone());
            n_tokens += n;
            if n < BLOCK {
                break;
            }
            parent = Some(id);
        }
        (blocks, n_tokens)
    }

    /// Keeps the blocks of `tokens` that are not known yet; `block_of` gives the one
    /// with the tokens from `BLOCK * index` on, or `None`, which ends it.
    pub fn keep(
        &mut self,
        recipe: &Arc<Recipe>,
        tokens: &[i32],
        mut block_of: impl FnMut(usize) -> Option<Arc<Block>>,
    ) {
        let mut parent = None;
        self.clock += 1;
        for (index, tokens) in tokens.chunks(BLOCK).enumerate() {
            let closest = self.closest(recipe, parent, tokens);
            parent = Some(match closest {
                Some((id, n)) if n == tokens.len() => {
                    self.touch(id);
                    id
                }
                closest => {
                    let Some(block) = block_of(index) else {
                        return;
                    };
                    // What this one begins with is no longer of use by itself.
                    if let Some((id, n)) = closest
                        && self.nodes[&id].tokens.len() == n
                    {
                        self.remove(id);
                    }
                    self.add(recipe, parent, tokens, block)
                }
            });
        }
    }

    /// Lets blocks go that nobody else holds, those unused for longest first, until no
    /// more than `bytes` of such are left; gives what they were.
    pub fn shrink_to(&mut self, bytes: usize) -> usize {
        let before = self.spare_bytes();
        let mut spare = before;
        let mut by_age: Vec<_> = self.nodes.iter().map(|(id, n)| (n.last_use, *id)).collect();
        // Of a path that was used at one time, what was added later is further down.
        by_age.sort_by_key(|&(last_use, id)| (last_use, std::cmp::Reverse(id)));
        // Whoever is in use frees nothing, unless it keeps others from going.
        for takes_used in [false, true] {
            for &(_, id) in &by_age {
                if spare <= bytes {
                    return before - spare;
                }
                let Some(node) = self.nodes.get(&id) else {
                    continue;
                };
                let is_spare = node.block.is_spare();
                if node.children.is_empty() && (is_spare || takes_used) {
                    spare -= if is_spare { node.block.bytes() } else { 0 };
                    self.remove(id);
                }
            }
        }
        before - spare
    }

    /// Of blocks that nobody else holds.
    pub fn spare_bytes(&self) -> usize {
        let spare = self.nodes.values().filter(|node| node.block.is_spare());
        spare.map(|node| node.block.bytes()).sum()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.roots.clear();
        self.nodes.clear();
    }

    /// The child that begins with most of `tokens`, and how many these are.
    fn closest(
        &self,
        recipe: &Arc<Recipe>,
        parent: Option<NodeId>,
        tokens: &[i32],
    ) -> Option<(NodeId, usize)> {
        let children = match parent {
            Some(parent) => &self.nodes[&parent].children,
            None => {
                let mut roots = self.roots.iter();
                let same = |own: &Arc<Recipe>| Arc::ptr_eq(own, recipe) || own == recipe;
                &roots.find(|(own, _)| same(own))?.1
            }
        };
        let common = |&id: &NodeId| (id, self.nodes[&id].common(tokens));
        let closest = children.iter().map(common).max_by_key(|(_, n)| *n);
        closest.filter(|(_, n)| *n > 0)
    }

    fn touch(&mut self, id: NodeId) -> &Node {
        let node = self.nodes.get_mut(&id).expect("a node of the tree");
        node.last_use = self.clock;
        node
    }

    fn add(
        &mut self,
        recipe: &Arc<Recipe>,
        parent: Option<NodeId>,
        tokens: &[i32],
        block: Arc<Block>,
    ) -> NodeId {
        let id = self.next_id;
        self.next_id += 1;
        block.keep(true);
        let node = Node {
            tokens: tokens.into(),
            block,
            parent,
            children: Vec::new(),
            last_use: self.clock,
        };
        self.nodes.insert(id, node);
        self.siblings(recipe, parent).push(id);
        id
    }

    fn siblings(&mut self, recipe: &Arc<Recipe>, parent: Option<NodeId>) -> &mut Vec<NodeId> {
        if let Some(parent) = parent {
            let node = self.nodes.get_mut(&parent).expect("a node of the tree");
            return &mut node.children;
        }
        let known = self.roots.iter().position(|(own, _)| own == recipe);
        let index = known.unwrap_or_else(|| {
            self.roots.push((recipe.clone(), Vec::new()));
            self.roots.len() - 1
        });
        &mut self.roots[index].1
    }

    /// One without children.
    fn remove(&mut self, id: NodeId) {
        let node = self.nodes.remove(&id).expect("a node of the tree");
        match node.parent {
            Some(parent) => {
                let parent = self.nodes.get_mut(&parent).expect("a node of the tree");
                parent.children.retain(|child| *child != id);
            }
            None => {
                for (_, roots) in &mut self.roots {
                    roots.retain(|root| *root != id);
                }
                self.roots.retain(|(_, roots)| !roots.is_empty());
            }
        }
    }
}
