// quarrel-bench: attention, matrix products and cache bookkeeping without Python.
// docs/quarrel-bench.md describes it. Exit code 0: done; 1: a comparison failed; 2: wrong usage.
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "cpu/isa.h"
#include "options.h"
#include "run.h"
#include "table.h"

namespace quarrel::bench {
namespace {

void print_version() {
  std::string isas;
  for (const std::string& isa : cpu::available_isas()) isas += (isas.empty() ? "" : ",") + isa;
  std::printf("quarrel-bench %s\ncompiler: %s\nprocessor: %s\nbuild: %s\nisas: %s\n",
              QUARREL_VERSION, QUARREL_COMPILER, QUARREL_PROCESSOR, QUARREL_BUILD_TYPE,
              isas.c_str());
}

void print_help() {
  std::string ops;
  for (const std::string& name : op_names()) ops += " " + name;
  std::printf(
      "quarrel-bench --op NAMES [options]\n\n"
      "Measures operations of the engine, compares them with a plain reference, or says which\n"
      "combinations run here. Options with several values, separated by commas, give a row for\n"
      "each combination.\n\noperations:%s\n\n%s",
      ops.c_str(), options_help().c_str());
}

int run(const std::vector<std::string_view>& arguments) {
  const Options options = parse_options(arguments);
  if (options.help) {
    print_help();
    return 0;
  }
  if (options.version) {
    print_version();
    return 0;
  }
  const Report report = run_all(options);
  std::fputs(format_rows(report.rows, options.format).c_str(), stdout);
  return report.failed ? 1 : 0;
}

}  // namespace
}  // namespace quarrel::bench

int main(int argc, char** argv) {
  try {
    return quarrel::bench::run({argv + 1, argv + argc});
  } catch (const quarrel::bench::UsageError& error) {
    std::fprintf(stderr, "quarrel-bench: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "quarrel-bench: %s\n", error.what());
    return 1;
  }
}
