// The texts whose K and V are cached, as a tree of full blocks.
//
// A node stands for one full block of tokens after all the blocks above it. It says which block of
// each layer group holds it, or that none does: a windowed group may have lost a node that another
// group still holds. Nodes are found through a chained hash and verified by parent and tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cache/block_hash.h"
#include "cache/kv_cache.h"

namespace quarrel {

enum class NodeId : std::int32_t {};
inline constexpr NodeId kNoNode{-1};
inline constexpr NodeId kRootNode{0};  // the empty text; never removed

class PrefixIndex {
 public:
  // salt: texts of another model, dtype or adapter hash differently. capacity: the most nodes,
  // beside the root; memory for them is taken at once. hash_bits: fewer than 64 force collisions,
  // for tests.
  PrefixIndex(std::size_t n_groups, std::size_t block_size, std::uint64_t salt,
              std::size_t capacity, int hash_bits);

  // tokens: [block_size]. kNoNode when this text is not here.
  NodeId find(NodeId parent, std::span<const TokenId> tokens) const;
  // kNoNode when the text is new and the index is full.
  NodeId find_or_add(NodeId parent, std::span<const TokenId> tokens);
  bool is_full() const { return n_nodes_ > capacity_; }
  static std::size_t n_bytes(std::size_t n_groups, std::size_t block_size, std::size_t capacity);

  // A live sequence ends at this node (or an adoption needs it): it stays, with all nodes above it.
  void hold(NodeId node) { ++at(node).n_holders; }
  void let_go(NodeId node);

  BlockId block(NodeId node, std::size_t group) const { return blocks_[slot(node, group)]; }
  void set_block(NodeId node, std::size_t group, BlockId block);
  // The node goes too when nothing needs it any more.
  void clear_block(NodeId node, std::size_t group);

  // kNoNode for the root, and for numbers below n_slots() that no node has.
  NodeId parent(NodeId node) const { return at(node).parent; }
  std::span<const TokenId> tokens(NodeId node) const;
  bool has_children(NodeId node) const { return at(node).n_children > 0; }
  // Children that have a block in this group.
  std::size_t n_held_children(NodeId node, std::size_t group) const {
    return held_children_[slot(node, group)];
  }
  std::size_t n_nodes() const { return n_nodes_; }  // the root too
  // Whether this text was here and lost its place lately. A hint for people: it may be wrong.
  bool was_removed(NodeId parent, std::span<const TokenId> tokens) const;

  // holders: [index of node] how many live sequences end there. Throws Error.
  void check_invariants(const std::vector<std::size_t>& holders) const;
  std::size_t n_slots() const { return nodes_.size(); }

 private:
  struct Node {
    BlockHash hash;
    NodeId parent;  // kNoNode for the root and for unused nodes
    NodeId next;    // in its bucket, or the next unused node
    std::uint32_t n_children;
    std::uint32_t n_holders;
    std::uint32_t n_blocks;  // groups that have a block
  };

  Node& at(NodeId node) { return nodes_[static_cast<std::size_t>(node)]; }
  const Node& at(NodeId node) const { return nodes_[static_cast<std::size_t>(node)]; }
  std::size_t slot(NodeId node, std::size_t group) const {
    return static_cast<std::size_t>(node) * n_groups_ + group;
  }
  BlockHash hash(NodeId parent, std::span<const TokenId> tokens) const;
  NodeId lookup(BlockHash hash, NodeId parent, std::span<const TokenId> tokens) const;
  std::size_t bucket(BlockHash hash) const { return hash & (buckets_.size() - 1); }
  NodeId take_node();
  void link(NodeId node);
  void unlink(NodeId node);
  void prune(NodeId node);

  const std::size_t n_groups_;
  const std::size_t block_size_;
  const std::size_t capacity_;
  const BlockHash hash_mask_;
  std::vector<Node> nodes_;
  std::vector<TokenId> tokens_;               // [nodes, block_size]
  std::vector<BlockId> blocks_;               // [nodes, n_groups]
  std::vector<std::uint32_t> held_children_;  // [nodes, n_groups]
  std::vector<NodeId> buckets_;               // a power of two
  std::vector<BlockHash> removed_;            // direct mapped by hash
  NodeId unused_ = kNoNode;
  std::size_t n_nodes_ = 0;
};

}  // namespace quarrel
