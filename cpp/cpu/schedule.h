// Turns a Program into stages: what runs between two meetings of the threads.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "program/program.h"

namespace quarrel::cpu {

// Rows: ops that never look beyond their row; one thread takes some rows through all of them.
// Linear: matrix products that do not depend on each other, over all their tiles at once.
// Attention, SelectRows: one op.
enum class StageKind { Rows, Linear, Attention, SelectRows };

// A value that a linear stage wants as integers; done at the end of the Rows stage before it.
struct Quantization {
  ValueId value;
  std::size_t slot;  // of the quantisation buffers
};

struct Stage {
  StageKind kind;
  RowSpace rows;
  std::vector<std::size_t> ops;             // in Schedule::program
  std::vector<Quantization> quantizations;  // of a Rows stage, after its ops
  std::vector<std::size_t> slots;           // of a Linear stage, one per op
};

struct Schedule {
  std::shared_ptr<const Program> program;  // with its ops in the order they run
  std::vector<Stage> stages;
  std::vector<std::size_t> stage_of_op;  // [n_ops]
  std::vector<std::size_t> slot_widths;  // the widest value of each quantisation buffer
};

Schedule schedule(const Program& program);

// What a profile calls each stage: the ops it runs, e.g. "rms_norm",
// "linear(attn_q,attn_k,attn_v)".
std::vector<std::string> stage_names(const Schedule& schedule);

}  // namespace quarrel::cpu
