// One table of the configuration, read key by key: the type of each value is checked, and keys nobody asked for are found. Only the
// problem that stands first in the file is kept.
#pragma once
#define TOML_EXCEPTIONS 0
#define TOML_HEADER_ONLY 1
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bulkhead::daemon {

struct Problems {
  std::string text;  // empty: none
  unsigned line = ~0u;
  void add(unsigned at, const std::string& what) {
    if (at >= line) return;
    line = at;
    text = what;
  }
};

class ConfigTable {
 public:
  // `where` is its name for messages, as "[policy]". A null table has no keys.
  ConfigTable(const toml::table* table, std::string where, Problems& problems)
      : table_(table), where_(std::move(where)), problems_(&problems) {}

  // Each returns the value's line, 0 if the key is absent or wrong (`out` is left alone then).
  unsigned text(const char* key, std::string& out);
  unsigned flag(const char* key, bool& out);
  unsigned number(const char* key, std::int64_t least, std::int64_t most, std::int64_t& out);
  // Over 0, at most 1, in thousandths.
  unsigned ratio(const char* key, std::uint32_t& x1000);
  // A number of 10^9 a second, 0.001 to 100000; in 10^6 a second.
  unsigned rate(const char* key, std::uint32_t& mega);
  unsigned texts(const char* key, std::vector<std::string>& out);
  // One of `words`, as its position.
  unsigned word(const char* key, std::initializer_list<const char*> words, unsigned& out);
  // true, false or a port.
  unsigned port(const char* key, std::uint16_t usual, std::uint16_t& out);
  [[nodiscard]] ConfigTable table(const char* key);
  [[nodiscard]] const toml::array* tables(const char* key);

  void blame(unsigned line, const char* key, const std::string& what) {
    problems_->add(line, where_ + " " + key + ": " + what);
  }
  // After the last key: any other is a problem that lists those there are.
  void finish();
  [[nodiscard]] unsigned line() const { return table_ == nullptr ? 0 : line_of(*table_); }
  [[nodiscard]] bool present() const { return table_ != nullptr; }
  [[nodiscard]] bool has(const char* key) const {
    return table_ != nullptr && table_->get(key) != nullptr;
  }

  static unsigned line_of(const toml::node& node) {
    return static_cast<unsigned>(node.source().begin.line);
  }

 private:
  const toml::node* find(const char* key);
  unsigned wrong(const toml::node& node, const char* key, const char* wanted);

  const toml::table* table_;
  std::string where_;
  Problems* problems_;
  std::vector<std::string> known_;
};

}  // namespace bulkhead::daemon
