#include "options.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <functional>
#include <optional>

namespace quarrel::bench {
namespace {

// What comes after an option: its name and its text.
struct Given {
  std::string_view option;
  std::string_view text;
};

std::vector<std::string_view> split(const Given& given) {
  std::vector<std::string_view> parts;
  std::string_view rest = given.text;
  while (true) {
    const std::size_t comma = rest.find(',');
    parts.push_back(rest.substr(0, comma));
    if (parts.back().empty())
      throw UsageError(std::string(given.option) + " expects values with single commas between" +
                       " them, got \"" + std::string(given.text) + "\".");
    if (comma == std::string_view::npos) return parts;
    rest.remove_prefix(comma + 1);
  }
}

// Bounds keep products of sizes far from overflowing.
std::size_t number(std::string_view option, std::string_view text, std::size_t least,
                   std::size_t most) {
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least || value > most)
    throw UsageError(std::string(option) + " expects a whole number from " + std::to_string(least) +
                     " to " + std::to_string(most) + ", got \"" + std::string(text) + "\".");
  return value;
}

std::string choice(std::string_view option, std::string_view text,
                   std::span<const std::string_view> known) {
  if (std::ranges::find(known, text) != known.end()) return std::string(text);
  std::string names;
  for (const std::string_view name : known)
    names += (names.empty() ? "" : ", ") + std::string(name);
  throw UsageError(std::string(option) + " expects one of " + names + "; got \"" +
                   std::string(text) + "\".");
}

DType dtype(std::string_view option, std::string_view text) {
  if (const auto found = dtype_from_name(text)) return *found;
  throw UsageError(std::string(option) + " expects an element type of GGUF such as f16 or q8_0, " +
                   "got \"" + std::string(text) + "\".");
}

using Set = std::function<void(Options&, const Given&)>;

struct Option {
  std::string_view name;
  std::string_view values;  // what help shows; empty: a switch
  std::string_view help;
  Set set;
};

Set numbers(std::vector<std::size_t> Options::* field, std::size_t least, std::size_t most) {
  return [=](Options& options, const Given& given) {
    (options.*field).clear();
    for (const std::string_view part : split(given))
      (options.*field).push_back(number(given.option, part, least, most));
  };
}

Set one_number(std::size_t Options::* field, std::size_t least, std::size_t most) {
  return [=](Options& options, const Given& given) {
    options.*field = number(given.option, given.text, least, most);
  };
}

Set choices(std::vector<std::string> Options::* field, std::vector<std::string_view> known) {
  return [=](Options& options, const Given& given) {
    (options.*field).clear();
    for (const std::string_view part : split(given))
      (options.*field)
          .push_back(known.empty() ? std::string(part) : choice(given.option, part, known));
  };
}

Set dtypes(std::vector<DType> Options::* field) {
  return [=](Options& options, const Given& given) {
    (options.*field).clear();
    for (const std::string_view part : split(given))
      (options.*field).push_back(dtype(given.option, part));
  };
}

Set flag(bool Options::* field) {
  return [=](Options& options, const Given&) { options.*field = true; };
}

void set_mode(Options& options, const Given& given) {
  constexpr std::array<std::string_view, 3> kModes = {"perf", "test", "support"};
  const auto name = choice(given.option, given.text, kModes);
  options.mode = static_cast<Mode>(std::ranges::find(kModes, name) - kModes.begin());
}

void set_profiling(Options& options, const Given& given) {
  constexpr std::array<std::string_view, 3> kProfiling = {"off", "timers", "trace"};
  const auto name = choice(given.option, given.text, kProfiling);
  options.profiling =
      static_cast<Profiling>(std::ranges::find(kProfiling, name) - kProfiling.begin());
}

void set_format(Options& options, const Given& given) {
  constexpr std::array<std::string_view, 3> kFormats = {"md", "json", "csv"};
  const auto name = choice(given.option, given.text, kFormats);
  options.format = static_cast<Format>(std::ranges::find(kFormats, name) - kFormats.begin());
}

const std::vector<Option>& all_options() {
  using O = Options;
  static const std::vector<Option> kOptions = {
      {"--op", "NAMES", "operations, or \"all\"", choices(&O::ops, {})},
      {"--mode", "perf|test|support", "measure, compare with a reference, or say what runs",
       set_mode},
      {"-o", "md|json|csv", "how to print", set_format},
      {"--device", "cpu,metal", "devices", choices(&O::devices, {"cpu", "metal"})},
      {"--isa", "NAMES",
       "instruction sets of the CPU device: auto, avx512, avx2, neon_dotprod, neon, portable",
       choices(&O::isas, {"auto", "avx512", "avx2", "neon_dotprod", "neon", "portable"})},
      {"--threads", "NUMBERS", "threads of the CPU device; all cores if not given",
       numbers(&O::threads, 1, 1024)},
      {"--cache", "NAMES", "strategies: contiguous, paged, sliding_window",
       choices(&O::caches, {"contiguous", "paged", "sliding_window"})},
      {"--ctk", "TYPES", "element types of K in the cache", dtypes(&O::k_dtypes)},
      {"--ctv", "TYPES", "element types of V in the cache", dtypes(&O::v_dtypes)},
      {"--type", "TYPES", "element types of the matrix of linear_*", dtypes(&O::weight_dtypes)},
      {"--depth", "NUMBERS", "tokens in the cache before the step; length of a cache_* text",
       numbers(&O::depths, 0, 1 << 24)},
      {"--batch", "NUMBERS", "sequences of a step", numbers(&O::batches, 1, 4096)},
      {"--heads", "NUMBER", "query heads", one_number(&O::n_heads, 1, 1024)},
      {"--kv-heads", "NUMBER", "KV heads", one_number(&O::n_kv_heads, 1, 1024)},
      {"--head-dim", "NUMBER", "elements of a head", one_number(&O::head_dim, 1, 4096)},
      {"--n-in", "NUMBER", "inputs of linear_*", one_number(&O::n_in, 1, 1 << 20)},
      {"--n-out", "NUMBER", "outputs of linear_*", one_number(&O::n_out, 1, 1 << 20)},
      {"--prompt", "NUMBER", "tokens per sequence of *_prefill",
       one_number(&O::prompt, 1, 1 << 20)},
      {"--block-size", "NUMBER", "tokens of a cache block", one_number(&O::block_size, 1, 4096)},
      {"--window", "NUMBER", "tokens that attention looks back on, with any strategy; 0: all",
       one_number(&O::window, 0, 1 << 24)},
      {"--sinks", "NUMBER", "first tokens that stay visible beside the window",
       one_number(&O::sinks, 0, 1 << 24)},
      {"--profile", "off|timers|trace", "what an executable notes of a decode_step, for its cost",
       set_profiling},
      {"--repeat", "NUMBER", "measurements per row; 0: as many as fit into --time-ms",
       one_number(&O::repeat, 0, 1 << 20)},
      {"--time-ms", "NUMBER", "time to spend on a row", one_number(&O::milliseconds, 1, 3600000)},
      {"--memory-gib", "NUMBER", "cap of the memory to take; 0: half of the machine's",
       one_number(&O::memory_gib, 0, 1 << 16)},
      {"--bandwidth-mib", "NUMBER", "memory to read for measuring bandwidth; 0: not measured",
       one_number(&O::bandwidth_mib, 0, 1 << 16)},
      {"--version", "", "print version, compiler and instruction sets", flag(&O::version)},
      {"--help", "", "print this", flag(&O::help)},
  };
  return kOptions;
}

const Option& option_named(std::string_view name) {
  for (const Option& option : all_options())
    if (option.name == name) return option;
  throw UsageError("There is no option \"" + std::string(name) + "\"; --help lists them.");
}

void check(const Options& options) {
  if (options.n_heads % options.n_kv_heads != 0)
    throw UsageError("--heads expects a multiple of --kv-heads (" +
                     std::to_string(options.n_kv_heads) + "), got " +
                     std::to_string(options.n_heads) + ".");
  if (options.sinks != 0 && options.window == 0)
    throw UsageError("--sinks needs a --window: without one every token stays visible.");
}

}  // namespace

Options parse_options(std::span<const std::string_view> arguments) {
  Options options;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const Option& option = option_named(arguments[i]);
    std::string_view text;
    if (!option.values.empty()) {
      if (++i == arguments.size())
        throw UsageError(std::string(option.name) + " expects a value after it.");
      text = arguments[i];
    }
    option.set(options, {option.name, text});
  }
  check(options);
  return options;
}

std::string options_help() {
  std::string text;
  for (const Option& option : all_options()) {
    std::string left = "  " + std::string(option.name) + " " + std::string(option.values);
    left.resize(std::max<std::size_t>(left.size() + 1, 28), ' ');
    text += left + std::string(option.help) + "\n";
  }
  return text;
}

}  // namespace quarrel::bench
