// Rows of named cells, printed as Markdown, JSON or CSV.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "options.h"

namespace quarrel::bench {

// monostate: this row has no such figure.
using Cell = std::variant<std::monostate, std::string, std::uint64_t, double>;
using Row = std::vector<std::pair<std::string, Cell>>;  // by column

// All rows have the same columns. Markdown leaves out those that no row fills.
std::string format_rows(const std::vector<Row>& rows, Format format);

}  // namespace quarrel::bench
