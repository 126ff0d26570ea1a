#include "table.h"

#include <algorithm>
#include <cstdio>

namespace quarrel::bench {
namespace {

// Four significant digits are more than a measurement holds; JSON and CSV keep nine.
std::string number_text(double value, int digits) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*g", digits, value);
  return text;
}

std::string plain(const Cell& cell, int digits) {
  if (const auto* text = std::get_if<std::string>(&cell)) return *text;
  if (const auto* count = std::get_if<std::uint64_t>(&cell)) return std::to_string(*count);
  if (const auto* value = std::get_if<double>(&cell)) return number_text(*value, digits);
  return "";
}

bool is_empty(const Cell& cell) { return std::holds_alternative<std::monostate>(cell); }

std::string quoted(const std::string& text, char escape) {
  std::string out(1, '"');
  for (const char c : text) {
    if (c == '"' || (c == '\\' && escape == '\\')) out += escape;
    out += c;
  }
  out += '"';
  return out;
}

std::string json_cell(const Cell& cell) {
  if (is_empty(cell)) return "null";
  if (const auto* text = std::get_if<std::string>(&cell)) return quoted(*text, '\\');
  return plain(cell, 9);
}

std::string csv_cell(const Cell& cell) {
  const std::string text = plain(cell, 9);
  return text.find_first_of(",\"") == std::string::npos ? text : quoted(text, '"');
}

std::string json(const std::vector<Row>& rows) {
  std::string out = "[";
  for (const Row& row : rows) {
    out += out.size() > 1 ? ",\n {" : "\n {";
    for (std::size_t i = 0; i < row.size(); ++i)
      out += (i == 0 ? "" : ", ") + quoted(row[i].first, '\\') + ": " + json_cell(row[i].second);
    out += "}";
  }
  return out + "\n]\n";
}

std::string csv(const std::vector<Row>& rows) {
  std::string out;
  const auto add = [&](std::size_t column, const std::string& text) {
    if (column != 0) out += ',';
    out += text;
  };
  for (std::size_t i = 0; i < rows[0].size(); ++i) add(i, rows[0][i].first);
  out += '\n';
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) add(i, csv_cell(row[i].second));
    out += '\n';
  }
  return out;
}

// One column, padded to a common width: name, rule, cells.
std::vector<std::string> markdown_column(const std::vector<Row>& rows, std::size_t column) {
  std::vector<std::string> lines = {rows[0][column].first, ""};
  bool is_text = false;
  for (const Row& row : rows) {
    lines.push_back(plain(row[column].second, 4));
    is_text = is_text || std::holds_alternative<std::string>(row[column].second);
  }
  const std::size_t width = std::max<std::size_t>(
      2, std::ranges::max(lines, {}, [](const auto& s) { return s.size(); }).size());
  for (std::string& line : lines) {
    const std::string padding(width - line.size(), ' ');
    line = is_text ? line + padding : padding + line;
  }
  lines[1] = is_text ? std::string(width, '-') : std::string(width - 1, '-') + ":";
  return lines;
}

std::string markdown(const std::vector<Row>& rows) {
  std::vector<std::vector<std::string>> columns;
  for (std::size_t i = 0; i < rows[0].size(); ++i)
    if (!std::ranges::all_of(rows, [i](const Row& row) { return is_empty(row[i].second); }))
      columns.push_back(markdown_column(rows, i));
  std::string out;
  for (std::size_t line = 0; line < rows.size() + 2; ++line) {
    for (const auto& column : columns) out += "| " + column[line] + " ";
    out += "|\n";
  }
  return out;
}

}  // namespace

std::string format_rows(const std::vector<Row>& rows, Format format) {
  if (rows.empty()) return format == Format::Json ? "[]\n" : "";
  if (format == Format::Json) return json(rows);
  return format == Format::Csv ? csv(rows) : markdown(rows);
}

}  // namespace quarrel::bench
