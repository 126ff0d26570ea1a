#include "cache/prefix_index.h"

#include <algorithm>
#include <bit>
#include <string>

#include "cache/planted_fault.h"
#include "core/error.h"

namespace quarrel {
namespace {

[[noreturn]] void broken(const std::string& what) {
  throw Error("[prefix_index] invariant broken: " + what);
}

BlockHash mask_of(int bits) { return bits >= 64 ? ~BlockHash{0} : (BlockHash{1} << bits) - 1; }

}  // namespace

PrefixIndex::PrefixIndex(std::size_t n_groups, std::size_t block_size, std::uint64_t salt,
                         std::size_t capacity, int hash_bits)
    : n_groups_(n_groups),
      block_size_(block_size),
      capacity_(capacity),
      hash_mask_(mask_of(hash_bits)),
      buckets_(std::bit_ceil(capacity + 1), kNoNode),
      removed_(std::bit_ceil(capacity + 1), ~BlockHash{0}) {
  nodes_.reserve(capacity + 1);
  tokens_.reserve((capacity + 1) * block_size);
  blocks_.reserve((capacity + 1) * n_groups);
  held_children_.reserve((capacity + 1) * n_groups);
  take_node();
  nodes_[0] = {mix_bits(salt), kNoNode, kNoNode, 0, 0, 0};
}

std::size_t PrefixIndex::n_bytes(std::size_t n_groups, std::size_t block_size,
                                 std::size_t capacity) {
  const std::size_t per_group = sizeof(BlockId) + sizeof(std::uint32_t);
  return (capacity + 1) * (sizeof(Node) + block_size * sizeof(TokenId) + n_groups * per_group) +
         std::bit_ceil(capacity + 1) * (sizeof(NodeId) + sizeof(BlockHash));
}

BlockHash PrefixIndex::hash(NodeId parent, std::span<const TokenId> tokens) const {
  if (planted(PlantedFault::HashWithoutParent)) parent = kRootNode;
  return chain_hash(at(parent).hash, tokens) & hash_mask_;
}

std::span<const TokenId> PrefixIndex::tokens(NodeId node) const {
  return std::span(tokens_).subspan(static_cast<std::size_t>(node) * block_size_, block_size_);
}

NodeId PrefixIndex::lookup(BlockHash hash, NodeId parent, std::span<const TokenId> tokens) const {
  for (NodeId node = buckets_[bucket(hash)]; node != kNoNode; node = at(node).next) {
    if (at(node).hash != hash) continue;
    if (at(node).parent != parent && !planted(PlantedFault::HashWithoutParent)) continue;
    if (std::ranges::equal(this->tokens(node), tokens)) return node;
  }
  return kNoNode;
}

NodeId PrefixIndex::find(NodeId parent, std::span<const TokenId> tokens) const {
  return lookup(hash(parent, tokens), parent, tokens);
}

NodeId PrefixIndex::find_or_add(NodeId parent, std::span<const TokenId> tokens) {
  const BlockHash hash = this->hash(parent, tokens);
  const NodeId found = lookup(hash, parent, tokens);
  if (found != kNoNode || is_full()) return found;
  const NodeId node = take_node();
  at(node) = {hash, parent, kNoNode, 0, 0, 0};
  std::ranges::copy(tokens, tokens_.begin() + static_cast<std::ptrdiff_t>(
                                                  static_cast<std::size_t>(node) * block_size_));
  ++at(parent).n_children;
  link(node);
  return node;
}

NodeId PrefixIndex::take_node() {
  ++n_nodes_;
  if (unused_ != kNoNode) {
    const NodeId node = unused_;
    unused_ = at(node).next;
    return node;
  }
  const NodeId node{static_cast<std::int32_t>(nodes_.size())};
  nodes_.emplace_back();
  tokens_.resize(tokens_.size() + block_size_);
  blocks_.resize(blocks_.size() + n_groups_, kNoBlock);
  held_children_.resize(held_children_.size() + n_groups_, 0);
  return node;
}

void PrefixIndex::link(NodeId node) {
  NodeId& first = buckets_[bucket(at(node).hash)];
  at(node).next = first;
  first = node;
}

void PrefixIndex::unlink(NodeId node) {
  NodeId* link = &buckets_[bucket(at(node).hash)];
  while (*link != node) link = &at(*link).next;
  *link = at(node).next;
}

void PrefixIndex::let_go(NodeId node) {
  --at(node).n_holders;
  prune(node);
}

void PrefixIndex::set_block(NodeId node, std::size_t group, BlockId block) {
  blocks_[slot(node, group)] = block;
  ++at(node).n_blocks;
  ++held_children_[slot(at(node).parent, group)];
}

void PrefixIndex::clear_block(NodeId node, std::size_t group) {
  blocks_[slot(node, group)] = kNoBlock;
  --at(node).n_blocks;
  --held_children_[slot(at(node).parent, group)];
  removed_[at(node).hash & (removed_.size() - 1)] = at(node).hash;
  prune(node);
}

void PrefixIndex::prune(NodeId node) {
  while (node != kRootNode) {
    const Node& n = at(node);
    if (n.n_children > 0 || n.n_holders > 0 || n.n_blocks > 0) return;
    const NodeId parent = n.parent;
    unlink(node);
    at(node) = {0, kNoNode, unused_, 0, 0, 0};
    unused_ = node;
    --n_nodes_;
    --at(parent).n_children;
    node = parent;
  }
}

bool PrefixIndex::was_removed(NodeId parent, std::span<const TokenId> tokens) const {
  const BlockHash hash = this->hash(parent, tokens);
  return removed_[hash & (removed_.size() - 1)] == hash;
}

void PrefixIndex::check_invariants(const std::vector<std::size_t>& holders) const {
  std::vector<std::uint32_t> children(nodes_.size(), 0);
  std::vector<std::uint32_t> held(held_children_.size(), 0);
  std::size_t n_used = 1;
  for (std::size_t i = 1; i < nodes_.size(); ++i) {
    const Node& n = nodes_[i];
    const NodeId id{static_cast<std::int32_t>(i)};
    if (n.parent == kNoNode) continue;
    ++n_used;
    ++children[static_cast<std::size_t>(n.parent)];
    std::uint32_t n_blocks = 0;
    for (std::size_t g = 0; g < n_groups_; ++g) {
      if (block(id, g) == kNoBlock) continue;
      ++n_blocks;
      ++held[slot(n.parent, g)];
    }
    if (n.n_blocks != n_blocks) broken("a node miscounts its blocks");
    if (find(n.parent, tokens(id)) != id) broken("a node cannot be found");
  }
  if (n_used != n_nodes_) broken("the number of nodes is wrong");
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    const Node& n = nodes_[i];
    if (i > 0 && n.parent == kNoNode) continue;
    if (n.n_children != children[i]) broken("a node miscounts its children");
    if (n.n_holders != holders[i]) broken("a node miscounts its sequences");
    if (i > 0 && n.n_children + n.n_holders + n.n_blocks == 0) broken("a node serves nothing");
  }
  if (held != held_children_) broken("a node miscounts the blocks below it");
}

}  // namespace quarrel
