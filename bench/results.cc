#include "bench/results.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>

namespace bulkhead::bench {
namespace {

std::string today() {
  const std::time_t now = std::time(nullptr);
  char text[40];
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

// Three digits that matter; whole numbers as they are.
std::string number(double v) {
  char text[40];
  const double a = std::fabs(v);
  if (v == std::floor(v) && a < 1e15)
    std::snprintf(text, sizeof text, "%.0f", v);
  else
    std::snprintf(text, sizeof text,
                  a >= 100  ? "%.0f"
                  : a >= 10 ? "%.1f"
                  : a >= 1  ? "%.2f"
                            : "%.4f",
                  v);
  return text;
}

std::string with_spread(const std::vector<double>& v) {
  std::string text = number(median(v));
  if (v.size() < 2) return text;
  const auto [low, high] = std::minmax_element(v.begin(), v.end());
  if (*low == *high) return text;
  return text + " (" + number(*low) + ".." + number(*high) + ")";
}

// The k-th repeat of one less the k-th of the other: what interleaving is for.
std::vector<double> paired(const Figure& a, const Figure& b) {
  std::vector<double> d;
  for (std::size_t k = 0; k < std::min(a.samples.size(), b.samples.size()); ++k)
    d.push_back(b.samples[k] - a.samples[k]);
  return d;
}

}  // namespace

void Results::begin(int row, const std::string& suite) {
  row_ = row;
  suite_ = suite;
}

void Results::add(const std::string& name, const std::string& figure, const std::string& unit,
                  const std::string& variant, double value, const std::string& note) {
  for (Figure& f : figures_) {
    if (f.suite != suite_ || f.name != name || f.figure != figure || f.variant != variant) continue;
    f.samples.push_back(value);
    if (!note.empty()) f.note = note;
    return;
  }
  figures_.push_back({row_, suite_, name, figure, unit, variant, note, {value}});
}

void Results::failed(const std::string& name, const std::string& variant, const std::string& why) {
  for (const Failure& f : failed_)  // once, however many repeats fail
    if (f.suite == suite_ && f.name == name && f.variant == variant) return;
  failed_.push_back({suite_, name, variant, why});
}

const Figure* Results::find(const std::string& name, const std::string& figure,
                            const std::string& variant) const {
  for (const Figure& f : figures_)
    if (f.suite == suite_ && f.name == name && f.figure == figure && f.variant == variant)
      return &f;
  return nullptr;
}

void Results::print(const Lab& lab, std::FILE* to) const {
  std::vector<std::string> columns;
  for (const Figure& f : figures_)
    if (f.suite == suite_ && std::find(columns.begin(), columns.end(), f.variant) == columns.end())
      columns.push_back(f.variant);
  const bool failed = std::any_of(failed_.begin(), failed_.end(),
                                  [this](const Failure& f) { return f.suite == suite_; });
  if (columns.empty() && !failed) return;  // nothing of it was asked for
  std::fprintf(to, "\n%s%s\n%-46s", suite_.c_str(),
               row_ != 0 ? (", row " + std::to_string(row_)).c_str() : "", "case");
  for (const std::string& c : columns) std::fprintf(to, " %26s", c.c_str());
  const bool both = columns.size() > 1 && columns[0] == "native";
  std::fprintf(to, "%s\n", both ? "          bulkhead - native" : "");
  std::vector<std::string> done;
  for (const Figure& f : figures_) {
    if (f.suite != suite_) continue;
    const std::string line = f.name + ", " + f.figure + (f.unit.empty() ? "" : " [" + f.unit + "]");
    if (std::find(done.begin(), done.end(), line) != done.end()) continue;
    done.push_back(line);
    std::fprintf(to, "%-46s", line.c_str());
    for (const std::string& c : columns) {
      const Figure* one = find(f.name, f.figure, c);
      std::fprintf(to, " %26s", one == nullptr ? "-" : with_spread(one->samples).c_str());
    }
    const Figure* native = find(f.name, f.figure, "native");
    const Figure* ours = find(f.name, f.figure, "bulkhead");
    if (both && native != nullptr && ours != nullptr)
      std::fprintf(to, " %26s", with_spread(paired(*native, *ours)).c_str());
    std::fprintf(to, "%s\n", f.note.empty() ? "" : ("  " + f.note).c_str());
  }
  for (const Failure& f : failed_)
    if (f.suite == suite_)
      std::fprintf(to, "NOT MEASURED %s, %s: %s\n", f.name.c_str(), f.variant.c_str(),
                   f.why.c_str());
  for (const Variant& v : lab.variants)
    if (!v.inert.empty())
      std::fprintf(to, "limit inert: %s (%s)\n", v.name.c_str(), v.inert.c_str());
  std::fflush(to);
}

bool Results::write(const Lab& lab, const std::string& command, std::FILE* to) const {
  using nlohmann::json;
  json cases = json::array();
  for (const Figure& f : figures_) {
    json c{{"row", f.row},
           {"suite", f.suite},
           {"case", f.name},
           {"figure", f.figure},
           {"unit", f.unit},
           {"variant", f.variant},
           {"samples", f.samples},
           {"median", median(f.samples)},
           {"min", *std::min_element(f.samples.begin(), f.samples.end())},
           {"max", *std::max_element(f.samples.begin(), f.samples.end())}};
    if (!f.note.empty()) c["note"] = f.note;
    cases.push_back(std::move(c));
  }
  json failures = json::array();
  for (const Failure& f : failed_)
    failures.push_back(
        {{"suite", f.suite}, {"case", f.name}, {"variant", f.variant}, {"why", f.why}});
  json variants = json::array();
  for (const Variant& v : lab.variants)
    variants.push_back({{"name", v.name}, {"library", v.library}, {"limit_inert", v.inert}});
  const json all{{"schema", 1},
                 {"date", today()},
                 {"device", lab.device},
                 {"driver", lab.driver},
                 {"simulated", !lab.sim.empty()},
                 {"command", command},
                 {"quick", lab.quick},
                 {"variants", variants},
                 {"cases", cases},
                 {"not_measured", failures}};
  return std::fprintf(to, "%s\n", all.dump(1).c_str()) > 0 && std::fflush(to) == 0;
}

}  // namespace bulkhead::bench
