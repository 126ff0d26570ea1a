// What the command line of quarrel-bench may say.
#pragma once

#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"

namespace quarrel::bench {

enum class Mode { Perf, Test, Support };
enum class Format { Markdown, Json, Csv };
enum class Profiling { Off, Timers, Trace };

// Options with several values are axes: every combination is a row.
struct Options {
  std::vector<std::string> ops;  // checked by whoever knows the ops
  std::vector<std::string> devices = {"cpu"};
  std::vector<std::string> isas = {"auto"};
  std::vector<std::size_t> threads;  // empty: all cores
  std::vector<std::string> caches = {"contiguous"};
  std::vector<DType> k_dtypes = {DType::F16};
  std::vector<DType> v_dtypes = {DType::F16};
  std::vector<DType> weight_dtypes = {DType::Q4_1};
  std::vector<std::size_t> depths = {0, 4096};  // tokens in the cache before the step
  std::vector<std::size_t> batches = {1};       // sequences
  std::size_t n_heads = 32;
  std::size_t n_kv_heads = 8;
  std::size_t head_dim = 128;
  std::size_t n_in = 4096;
  std::size_t n_out = 4096;
  std::size_t prompt = 512;  // tokens per sequence of a prefill step
  std::size_t block_size = 16;
  std::size_t window = 0;  // 0: the whole text
  std::size_t sinks = 0;
  std::size_t repeat = 0;  // 0: as often as fits into `milliseconds`
  std::size_t milliseconds = 300;
  std::size_t memory_gib = 0;       // 0: half of the machine's
  std::size_t bandwidth_mib = 256;  // that measuring bandwidth reads; 0: not measured
  Profiling profiling = Profiling::Off;
  Mode mode = Mode::Perf;
  Format format = Format::Markdown;
  bool help = false;
  bool version = false;
};

// Wrong usage, in one sentence.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// arguments: without the program's name. Throws UsageError.
Options parse_options(std::span<const std::string_view> arguments);

// One line per option.
std::string options_help();

}  // namespace quarrel::bench
