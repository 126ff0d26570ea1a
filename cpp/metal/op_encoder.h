// One op of a program, ready to be encoded into steps: its pipelines and its place in memory.
// encode_<family>.mm has the ops of a family; its kernels are shaders/<family>.metal.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "metal/activations.h"
#include "metal/attention_scratch.h"
#include "metal/context.h"
#include "metal/step.h"
#include "metal/step_arrays.h"
#include "metal/weight_map.h"
#include "program/program.h"

namespace quarrel::metal {

// What outlives the encoders.
struct Setup {
  const Program& program;
  Context& context;
  const WeightMap& weights;
  const Activations& values;
  const StepArrays& arrays;
  AttentionScratch& attention_scratch;

  const Pipeline& pipeline(std::string_view stem, const std::string& kernel,
                           const std::vector<FunctionConstant>& constants = {}) const {
    return context.pipelines().get(stem, kernel, constants);
  }
  std::size_t width(ValueId id) const { return program.value(id).width; }
  RowSpace space(ValueId id) const { return program.value(id).rows; }
};

class OpEncoder {
 public:
  virtual ~OpEncoder() = default;
  // Called before the first step on a storage. Only attention and kv_write depend on it.
  virtual void prepare(const KVLayout&) {}
  virtual void encode(const Step& step) = 0;
};

// Each throws InvalidArgument for shapes that its kernels do not take, and Error if a kernel cannot
// be compiled. `op` is the kind that `io` holds.
using OpEncoderPtr = std::unique_ptr<OpEncoder>;
OpEncoderPtr make_encoder(const EmbeddingOp& op, const Op& io, const Setup& setup);
OpEncoderPtr make_encoder(const RmsNormOp& op, const Op& io, const Setup& setup);
OpEncoderPtr make_encoder(const LinearOp& op, const Op& io, const Setup& setup);
OpEncoderPtr make_encoder(const RopeOp& op, const Op& io, const Setup& setup);
OpEncoderPtr make_encoder(const KVWriteOp& op, const Op& io, const Setup& setup);
OpEncoderPtr make_encoder(const AttentionOp& op, const Op& io, const Setup& setup);
OpEncoderPtr make_encoder(const SiluMulOp& op, const Op& io, const Setup& setup);
OpEncoderPtr make_encoder(const GeluMulOp& op, const Op& io, const Setup& setup);
OpEncoderPtr make_encoder(const AddOp& op, const Op& io, const Setup& setup);
OpEncoderPtr make_encoder(const ScaleOp& op, const Op& io, const Setup& setup);
OpEncoderPtr make_encoder(const SoftcapOp& op, const Op& io, const Setup& setup);
OpEncoderPtr make_encoder(const SelectRowsOp& op, const Op& io, const Setup& setup);

// Stages of several ops (see fusion.h).
OpEncoderPtr make_add_rms_norm(const Op& add, const Op& norm, const Setup& setup);
OpEncoderPtr make_linear_add(const Op& linear, const Op& add, const Setup& setup);
OpEncoderPtr make_linear_gated(const Op& gate, const Op& up, const Op& mul, const Setup& setup);

// The kernel of a family for a type of weights: "embedding_Q4_1".
std::string kernel_name(std::string_view family, DType dtype);

// Throws InvalidArgument "[op] expected a width that is a multiple of ..." unless it is one.
void expect_multiple(const char* op, std::size_t width, std::size_t of);

inline std::size_t ceil_div(std::size_t n, std::size_t by) { return (n + by - 1) / by; }

}  // namespace quarrel::metal
