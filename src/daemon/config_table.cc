#include "daemon/config_table.h"

#include <algorithm>
#include <cmath>

namespace bulkhead::daemon {
namespace {

std::string type_name(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "a list";
    case toml::node_type::string:
      return "a text";
    case toml::node_type::integer:
      return "a number";
    case toml::node_type::floating_point:
      return "a fraction";
    case toml::node_type::boolean:
      return "true or false";
    default:
      return "a time";
  }
}

// A key as it may stand in a line of ours.
std::string printable(std::string_view text) {
  std::string out{text.substr(0, 64)};
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return out;
}

}  // namespace

const toml::node* ConfigTable::find(const char* key) {
  known_.emplace_back(key);
  return table_ == nullptr ? nullptr : table_->get(key);
}

unsigned ConfigTable::wrong(const toml::node& node, const char* key, const char* wanted) {
  blame(line_of(node), key, "this is " + type_name(node) + "; write " + wanted);
  return 0;
}

unsigned ConfigTable::text(const char* key, std::string& out) {
  const toml::node* node = find(key);
  if (node == nullptr) return 0;
  const auto* value = node->as_string();
  if (value == nullptr) return wrong(*node, key, "a text in quotes");
  if (printable(value->get().substr(0, 64)) != value->get().substr(0, 64) ||
      value->get().find('\0') != std::string::npos) {
    return wrong(*node, key, "a text without control characters");
  }
  out = value->get();
  return line_of(*node);
}

unsigned ConfigTable::flag(const char* key, bool& out) {
  const toml::node* node = find(key);
  if (node == nullptr) return 0;
  const auto* value = node->as_boolean();
  if (value == nullptr) return wrong(*node, key, "true or false");
  out = value->get();
  return line_of(*node);
}

unsigned ConfigTable::number(const char* key, std::int64_t least, std::int64_t most,
                             std::int64_t& out) {
  const toml::node* node = find(key);
  if (node == nullptr) return 0;
  const auto* value = node->as_integer();
  if (value == nullptr) return wrong(*node, key, "a whole number");
  if (value->get() < least || value->get() > most) {
    blame(line_of(*node), key,
          std::to_string(value->get()) + " is out of range; write " + std::to_string(least) +
              " to " + std::to_string(most));
    return 0;
  }
  out = value->get();
  return line_of(*node);
}

unsigned ConfigTable::ratio(const char* key, std::uint32_t& x1000) {
  const toml::node* node = find(key);
  if (node == nullptr) return 0;
  double value = 0;
  if (const auto* fraction = node->as_floating_point(); fraction != nullptr) {
    value = fraction->get();
  } else if (const auto* whole = node->as_integer(); whole != nullptr) {
    value = static_cast<double>(whole->get());
  } else {
    return wrong(*node, key, "a number, over 0 and at most 1");
  }
  if (!(value >= 0.001 && value <= 1)) {
    blame(line_of(*node), key, "out of range; write 0.001 to 1");
    return 0;
  }
  x1000 = static_cast<std::uint32_t>(std::lround(value * 1000));
  return line_of(*node);
}

unsigned ConfigTable::rate(const char* key, std::uint32_t& mega) {
  const toml::node* node = find(key);
  if (node == nullptr) return 0;
  double value = 0;
  if (const auto* fraction = node->as_floating_point(); fraction != nullptr) {
    value = fraction->get();
  } else if (const auto* whole = node->as_integer(); whole != nullptr) {
    value = static_cast<double>(whole->get());
  } else {
    return wrong(*node, key, "a number of GB a second, like 25 or 0.5");
  }
  if (!(value >= 0.001 && value <= 100'000)) {
    blame(line_of(*node), key, "out of range; write 0.001 to 100000, in GB a second");
    return 0;
  }
  mega = static_cast<std::uint32_t>(std::lround(value * 1000));
  return line_of(*node);
}

unsigned ConfigTable::texts(const char* key, std::vector<std::string>& out) {
  const toml::node* node = find(key);
  if (node == nullptr) return 0;
  const toml::array* list = node->as_array();
  if (list == nullptr) return wrong(*node, key, "a list of texts, like [\"a\", \"b\"]");
  std::vector<std::string> found;
  for (const toml::node& item : *list) {
    const auto* value = item.as_string();
    if (value == nullptr) return wrong(item, key, "a list of texts, like [\"a\", \"b\"]");
    if (printable(value->get()) != value->get()) {
      return wrong(item, key, "texts of at most 64 characters without control characters");
    }
    found.push_back(value->get());
  }
  out = std::move(found);
  return line_of(*node);
}

unsigned ConfigTable::word(const char* key, std::initializer_list<const char*> words,
                           unsigned& out) {
  std::string value;
  const unsigned at = text(key, value);
  if (at == 0) return 0;
  std::string all;
  unsigned i = 0;
  for (const char* w : words) {
    if (value == w) {
      out = i;
      return at;
    }
    all += (i++ == 0 ? "" : ", ") + std::string{w};
  }
  blame(at, key, "'" + printable(value) + "' is none of " + all);
  return 0;
}

unsigned ConfigTable::port(const char* key, std::uint16_t usual, std::uint16_t& out) {
  const toml::node* node = find(key);
  if (node == nullptr) return 0;
  if (const auto* on = node->as_boolean(); on != nullptr) {
    out = on->get() ? usual : std::uint16_t{0};
    return line_of(*node);
  }
  const auto* value = node->as_integer();
  if (value == nullptr || value->get() < 1 || value->get() > 65535) {
    return wrong(*node, key, "true, false, or a port from 1 to 65535 (on loopback)");
  }
  out = static_cast<std::uint16_t>(value->get());
  return line_of(*node);
}

ConfigTable ConfigTable::table(const char* key) {
  const toml::node* node = find(key);
  const std::string where = where_.empty() ? "[" + std::string{key} + "]" : where_ + " " + key;
  if (node != nullptr && !node->is_table()) wrong(*node, key, "a table");
  return {node == nullptr ? nullptr : node->as_table(), where, *problems_};
}

const toml::array* ConfigTable::tables(const char* key) {
  const toml::node* node = find(key);
  if (node == nullptr) return nullptr;
  const toml::array* list = node->as_array();
  const bool good = list != nullptr && std::all_of(list->begin(), list->end(),
                                                   [](const auto& n) { return n.is_table(); });
  if (!good) wrong(*node, key, "tables, each under its own [[tenant]]");
  return good ? list : nullptr;
}

void ConfigTable::finish() {
  if (table_ == nullptr) return;
  for (const auto& [key, node] : *table_) {
    if (std::find(known_.begin(), known_.end(), key.str()) != known_.end()) continue;
    std::string all;
    for (const std::string& k : known_) all += (all.empty() ? "" : ", ") + k;
    const auto at = static_cast<unsigned>(key.source().begin.line);
    problems_->add(at == 0 ? line_of(node) : at, (where_.empty() ? "" : where_ + " ") +
                                                     printable(key.str()) +
                                                     ": no such key; there are " + all);
  }
}

}  // namespace bulkhead::daemon
