// Every combination of the axes, one row each.
#pragma once

#include <string>
#include <vector>

#include "options.h"
#include "table.h"

namespace quarrel::bench {

// The names that --op takes.
std::vector<std::string> op_names();

struct Report {
  std::vector<Row> rows;
  bool failed = false;  // a comparison was out of its bound, or something broke
};

// Throws UsageError for an op that does not exist.
Report run_all(const Options& options);

}  // namespace quarrel::bench
