#include "run.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <optional>
#include <thread>

#include "core/error.h"
#include "cpu/isa.h"
#include "devices.h"
#include "op.h"

namespace quarrel::bench {
namespace {

std::vector<OpSpec> all_ops() {
  std::vector<OpSpec> all;
  for (const auto family : {attention_ops(), linear_ops(), decode_step_ops(), cache_ops()})
    all.insert(all.end(), family.begin(), family.end());
  return all;
}

std::vector<OpSpec> chosen_ops(const Options& options) {
  const std::vector<OpSpec> all = all_ops();
  if (options.ops.empty()) throw UsageError("--op is missing: name operations, or \"all\".");
  if (options.ops == std::vector<std::string>{"all"}) return all;
  std::vector<OpSpec> chosen;
  for (const std::string& name : options.ops) {
    const auto found = std::ranges::find(all, name, &OpSpec::name);
    if (found == all.end()) {
      std::string known;
      for (const std::string& other : op_names()) known += (known.empty() ? "" : ", ") + other;
      throw UsageError("--op expects \"all\" or some of " + known + "; got \"" + name + "\".");
    }
    chosen.push_back(*found);
  }
  return chosen;
}

std::vector<std::size_t> thread_counts(const Options& options) {
  if (!options.threads.empty()) return options.threads;
  return {std::max(1u, std::thread::hardware_concurrency())};
}

// "auto" by its name, so that a row says what ran.
std::vector<std::string> isa_names(const Options& options) {
  std::vector<std::string> names = options.isas;
  std::ranges::replace(names, "auto", cpu::available_isas().front());
  return names;
}

std::size_t memory_cap(const Options& options) {
  if (options.memory_gib != 0) return options.memory_gib << 30;
  return static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) *
         static_cast<std::size_t>(sysconf(_SC_PAGESIZE)) / 2;
}

template <class T>
std::vector<T> axis(bool matters, const std::vector<T>& values) {
  return matters ? values : std::vector<T>{values.front()};
}

// cases times the values of one more axis.
template <class T>
std::vector<Case> extended(const std::vector<Case>& cases, T Case::* field,
                           const std::vector<T>& values) {
  std::vector<Case> all;
  for (Case at : cases)
    for (const T& value : values) {
      at.*field = value;
      all.push_back(at);
    }
  return all;
}

// Instruction sets and threads are axes of the CPU device alone.
std::vector<Case> device_cases(const Axes& axes, const Options& o) {
  std::vector<Case> cases;
  for (const std::string& device : axis(axes.device, o.devices)) {
    const bool is_cpu = axes.device && device == "cpu";
    auto some = extended({Case{}}, &Case::device, {device});
    some = extended(some, &Case::isa, axis(is_cpu, isa_names(o)));
    some = extended(some, &Case::n_threads, axis(is_cpu, thread_counts(o)));
    cases.insert(cases.end(), some.begin(), some.end());
  }
  return cases;
}

std::vector<Case> cases_of(const Axes& axes, const Options& o) {
  auto cases = device_cases(axes, o);
  cases = extended(cases, &Case::weight_dtype, axis(axes.weight_dtype, o.weight_dtypes));
  cases = extended(cases, &Case::k_dtype, axis(axes.kv_dtypes, o.k_dtypes));
  cases = extended(cases, &Case::v_dtype, axis(axes.kv_dtypes, o.v_dtypes));
  // Depth and batch outside, strategies inside: what ought to be equal stands in neighbouring rows.
  cases = extended(cases, &Case::depth, axes.depth ? o.depths : std::vector<std::size_t>{0});
  cases = extended(cases, &Case::batch, axes.batch ? o.batches : std::vector<std::size_t>{1});
  return extended(cases, &Case::cache, axis(axes.cache, o.caches));
}

std::string hex(std::uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

Cell count(bool matters, std::size_t value) {
  return matters ? Cell(static_cast<std::uint64_t>(value)) : Cell();
}
Cell text(bool matters, std::string_view value) {
  return matters ? Cell(std::string(value)) : Cell();
}
Cell dtype(bool matters, DType value) {
  std::string name(traits(value).name);
  std::ranges::transform(name, name.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text(matters, name);
}

class Runner {
 public:
  explicit Runner(const Options& options) : options_(options) {}

  Report run() {
    for (const OpSpec& op : chosen_ops(options_))
      for (const Case& at : cases_of(op.axes, options_)) {
        show_progress(op.name);
        run(op, at);
      }
    show_progress("");
    return std::move(report_);
  }

 private:
  // On a terminal only.
  void show_progress(std::string_view op) const {
    if (isatty(STDERR_FILENO) == 0) return;
    std::fprintf(stderr, "\r\033[K%.*s", static_cast<int>(op.size()), op.data());
    if (!op.empty()) std::fprintf(stderr, ": row %zu", report_.rows.size() + 1);
  }

  // What is not supported is a row with the reason; all else that goes wrong is a failure.
  void run(const OpSpec& op, const Case& at) {
    const bool is_cpu = op.axes.device && at.device == "cpu";
    row_ = {{"op", std::string(op.name)},
            {"device", text(op.axes.device, at.device)},
            {"isa", text(is_cpu, at.isa)},
            {"threads", count(is_cpu, at.n_threads)},
            {"shape", op.shape(options_)},
            {"type", dtype(op.axes.weight_dtype, at.weight_dtype)},
            {"ctk", dtype(op.axes.kv_dtypes, at.k_dtype)},
            {"ctv", dtype(op.axes.kv_dtypes, at.v_dtype)},
            {"depth", count(op.axes.depth, at.depth)},
            {"batch", count(op.axes.batch, at.batch)},
            {"cache", text(op.axes.cache, at.cache)}};
    const std::size_t n_axes = row_.size();
    std::string reason;
    bool supported = false;
    try {
      std::unique_ptr<Device> device;
      if (op.axes.device) device = make_device(at.device, at.isa, at.n_threads);
      const Setup setup{options_, at, device.get(), MemoryLedger::create(memory_cap(options_))};
      op.check(setup);
      supported = true;
      fill(op, setup);
    } catch (const OutOfMemoryError& error) {
      reason = error.what();
      supported = false;
    } catch (const Error& error) {
      reason = error.what();
      report_.failed = report_.failed || supported;
    }
    if (!reason.empty()) {
      row_.resize(n_axes);
      fill_nothing(supported);
    }
    row_.emplace_back("note", text(!reason.empty(), reason));
    report_.rows.push_back(std::move(row_));
  }

  void fill(const OpSpec& op, const Setup& setup) {
    switch (options_.mode) {
      case Mode::Perf:
        return fill(op.measure(setup), setup.at);
      case Mode::Test:
        return fill(op.compare(setup));
      case Mode::Support:
        row_.emplace_back("supported", "yes");
    }
  }

  void fill(const Performance& p, const Case& at) {
    const double seconds = p.timing.seconds / p.n_operations;
    const double bandwidth = p.bytes / seconds;
    row_.emplace_back("time_us", seconds * 1e6);
    row_.emplace_back("per", std::string(p.unit));
    row_.emplace_back("noise_pct", p.timing.noise * 100);
    row_.emplace_back("gb_s", p.bytes != 0 ? Cell(bandwidth / 1e9) : Cell());
    row_.emplace_back("of_bandwidth_pct", share_of_limit(at, bandwidth));
    row_.emplace_back("gflop_s", p.flops != 0 ? Cell(p.flops / seconds / 1e9) : Cell());
    row_.emplace_back("allocations", p.timing.allocations / p.n_operations);
    row_.emplace_back("hash", hex(p.hash));
  }

  void fill(const Comparison& c) {
    const bool ok = c.error <= c.bound;
    report_.failed = report_.failed || !ok;
    row_.emplace_back("result", ok ? "ok" : "FAILED");
    row_.emplace_back("error", c.error);
    row_.emplace_back("bound", c.bound);
    row_.emplace_back("hash", hex(c.hash));
  }

  // The columns of the mode, for a row without figures.
  void fill_nothing(bool supported) {
    const std::string verdict = supported ? "FAILED" : "no";
    switch (options_.mode) {
      case Mode::Perf:
        for (const char* name : {"time_us", "per", "noise_pct", "gb_s", "of_bandwidth_pct",
                                 "gflop_s", "allocations", "hash"})
          row_.emplace_back(name, Cell());
        return;
      case Mode::Test:
        row_.emplace_back("result", verdict);
        for (const char* name : {"error", "bound", "hash"}) row_.emplace_back(name, Cell());
        return;
      case Mode::Support:
        row_.emplace_back("supported", verdict);
    }
  }

  // The limit is the machine's memory, as the CPU sees it; what fits into caches exceeds it.
  Cell share_of_limit(const Case& at, double bandwidth) {
    if (bandwidth == 0 || at.device != "cpu" || options_.bandwidth_mib == 0) return {};
    double& limit = limits_[at.n_threads];
    if (limit == 0) limit = memory_bandwidth(at.n_threads, options_.bandwidth_mib);
    return bandwidth / limit * 100;
  }

  const Options& options_;
  Report report_;
  Row row_;
  std::map<std::size_t, double> limits_;  // bytes per second, by the number of threads
};

}  // namespace

std::vector<std::string> op_names() {
  std::vector<std::string> names;
  for (const OpSpec& op : all_ops()) names.emplace_back(op.name);
  return names;
}

Report run_all(const Options& options) { return Runner(options).run(); }

}  // namespace quarrel::bench
