#include "daemon/sight/exposition.h"

#include <fmt/format.h>

#include "daemon/sight/text.h"

namespace bulkhead::daemon {

Labels::Labels(std::initializer_list<Label> list) {
  for (const Label& label : list) add(label);
}

Labels Labels::with(Label more) const {
  Labels out = *this;
  out.add(more);
  return out;
}

void Labels::add(const Label& label) {
  if (label.value.empty()) return;  // unknown: left out
  if (!text_.empty()) text_ += ',';
  text_ += fmt::format("{}=\"{}\"", label.name, label_text(label.value));
}

void Exposition::family(Type type, std::string_view name, std::string_view unit,
                        std::string_view help) {
  const bool old = format_ == Format::kPrometheus;
  type_ = type;
  name_ = name;
  std::string shown = name_;
  if (old && type == Type::kCounter) shown += "_total";
  if (old && type == Type::kInfo) shown += "_info";
  const char* word = "gauge";
  if (type == Type::kCounter) word = "counter";
  if (type == Type::kHistogram) word = "histogram";
  if (type == Type::kInfo && !old) word = "info";
  out_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", shown, help, shown, word);
  if (!old && !unit.empty()) out_ += fmt::format("# UNIT {} {}\n", shown, unit);
}

void Exposition::line(std::string_view suffix, const std::string& labels, std::string_view value) {
  out_ += name_;
  out_ += suffix;
  if (!labels.empty()) out_ += fmt::format("{{{}}}", labels);
  out_ += fmt::format(" {}\n", value);
}

void Exposition::sample(const Labels& labels, std::uint64_t value) {
  std::string_view suffix;
  if (type_ == Type::kCounter) suffix = "_total";
  if (type_ == Type::kInfo) suffix = "_info";
  line(suffix, labels.text(), fmt::format("{}", value));
}

void Exposition::sample(const Labels& labels, double value) {
  line(type_ == Type::kCounter ? "_total" : "", labels.text(), fmt::format("{}", value));
}

void Exposition::bucket(const Labels& labels, double upper_s, std::uint64_t cumulative) {
  line("_bucket", labels.with({"le", fmt::format("{}", upper_s)}).text(),
       fmt::format("{}", cumulative));
}

void Exposition::sum_and_count(const Labels& labels, double sum, std::uint64_t count) {
  line("_bucket", labels.with({"le", "+Inf"}).text(), fmt::format("{}", count));
  line("_sum", labels.text(), fmt::format("{}", sum));
  line("_count", labels.text(), fmt::format("{}", count));
}

std::string Exposition::finish() {
  if (format_ == Format::kOpenMetrics) out_ += "# EOF\n";
  return std::move(out_);
}

}  // namespace bulkhead::daemon
