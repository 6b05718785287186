// Outcome: a value, or one line for a person that says why there is none. For programs of ours, never inside the
// preloaded library (it uses the heap).
#pragma once
#include <optional>
#include <string>
#include <utility>

namespace bulkhead {

template <class T>
struct Outcome {
  std::optional<T> value;
  std::string problem;

  Outcome(T v) : value(std::move(v)) {}  // NOLINT: implicit by design
  static Outcome because(std::string text) { return Outcome{Why{std::move(text)}}; }
  [[nodiscard]] bool ok() const { return value.has_value(); }
  T& operator*() { return *value; }
  T* operator->() { return &*value; }

 private:
  struct Why {
    std::string text;
  };
  explicit Outcome(Why why) : problem(std::move(why.text)) {}
};

}  // namespace bulkhead
