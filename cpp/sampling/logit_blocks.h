// One row of logits with the largest value of every 64: what lets greedy, top-k and min-p touch a
// vocabulary of 262,144 once and then only the few blocks that matter.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "sampling/exponential.h"

namespace quarrel {

struct Candidate {
  float logit;
  std::int32_t id;
};

// Descending logit; equal logits in ascending id. A total order, so that sorted results do not
// depend on the standard library.
inline bool ranks_before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// Replaces the logit of one token.
struct LogitEdit {
  std::int32_t id;
  float logit;
};

// A read-only view of logits: [vocab_size] f32 with sparse edits laid over it. All memory is the
// caller's: block_max and every scratch span hold n_blocks(vocab_size) values.
class LogitBlocks {
 public:
  static std::size_t n_blocks(std::size_t vocab_size) { return (vocab_size + kChunk - 1) / kChunk; }

  // Reads the row once. InvalidArgument when a logit is NaN or +inf, or when all are -inf.
  LogitBlocks(std::span<const float> logits, std::span<float> block_max);

  // Lays edits (ascending unique ids, no NaN, no +inf) over the row; they must outlive the view.
  // InvalidArgument when that leaves no token above -inf.
  void lay_over(std::span<const LogitEdit> edits);

  float max() const { return max_; }
  // The lowest id whose logit is max().
  std::int32_t argmax() const;

  // A value that at least k logits reach; -inf when k is beyond the number of blocks.
  float lower_bound_of_kth(std::size_t k, std::span<float> scratch) const;

  // Writes the tokens with logit >= threshold and > -inf to `out` ([vocab_size]) in ascending id;
  // returns how many there are.
  std::size_t collect(double threshold, std::span<Candidate> out) const;

  // Sum of exp(logit - max()) over the vocabulary: blocks in ascending order.
  double mass() const;

  // Where the nucleus of top_p < 1 ends: the mass it has to reach, and a logit that is at or below
  // all of its tokens and above most others.
  struct Nucleus {
    double target_mass;
    double lower_bound;
  };
  Nucleus nucleus(double top_p) const;

 private:
  using Buffer = std::array<float, kChunk>;
  std::span<const float> block(std::size_t index, Buffer& buffer) const;
  void update_max();
  template <typename Visit>
  void for_each_weighed_block(Visit visit) const;

  std::span<const float> logits_;
  std::span<const LogitEdit> edits_;
  std::span<float> block_max_;
  float max_;
};

}  // namespace quarrel
