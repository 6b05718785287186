// Writes metric families as text: OpenMetrics 1.0, or Prometheus' older 0.0.4 for a reader that asks for it. They
// differ in a counter's family name, in UNIT and in the end mark.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace bulkhead::daemon {

enum class Format : std::uint8_t { kOpenMetrics, kPrometheus };
inline constexpr std::string_view kOpenMetricsType =
    "application/openmetrics-text; version=1.0.0; charset=utf-8";
inline constexpr std::string_view kPrometheusType = "text/plain; version=0.0.4; charset=utf-8";

enum class Type : std::uint8_t { kGauge, kCounter, kHistogram, kInfo };

// "name=value" pairs, values not yet escaped; a pair without a value is left out.
struct Label {
  std::string_view name;
  std::string_view value;
};
class Labels {
 public:
  Labels(std::initializer_list<Label> list);
  [[nodiscard]] Labels with(Label more) const;
  [[nodiscard]] const std::string& text() const { return text_; }  // without braces

 private:
  void add(const Label& label);
  std::string text_;
};

class Exposition {
 public:
  explicit Exposition(Format format) : format_(format) {}
  // Begins a family; its samples follow at once. `name` without _total; `unit` "" or the name's last part.
  void family(Type type, std::string_view name, std::string_view unit, std::string_view help);
  void sample(const Labels& labels, std::uint64_t value);
  void sample(const Labels& labels, double value);
  // A histogram: upper bounds in seconds, cumulative counts; +Inf is added with `count`.
  void bucket(const Labels& labels, double upper_s, std::uint64_t cumulative);
  void sum_and_count(const Labels& labels, double sum, std::uint64_t count);
  [[nodiscard]] std::string finish();

 private:
  void line(std::string_view suffix, const std::string& labels, std::string_view value);

  Format format_;
  Type type_ = Type::kGauge;
  std::string name_;
  std::string out_;
};

}  // namespace bulkhead::daemon
