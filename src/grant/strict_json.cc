#include "grant/strict_json.h"

#include <set>
#include <vector>

namespace bulkhead::grant {
namespace {

using nlohmann::json;

// SAX, so that a second member of one name is seen before a tree would have swallowed it. The tree is built by the parser's own
// consumer once this has passed: text of at most some KiB is read twice.
struct Checker : nlohmann::json_sax<json> {
  Refusal why = Refusal::kNone;
  std::vector<std::set<std::string>> open;  // of each object or array that is open
  bool is_object = false;

  bool stop(Refusal r) {
    why = r;
    return false;
  }
  bool deeper() {
    if (open.size() >= kMostDepth) return stop(Refusal::kNotJson);
    open.emplace_back();
    return true;
  }
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return stop(Refusal::kNotJson); }
  bool start_object(std::size_t) override {
    if (open.empty()) is_object = true;
    return deeper();
  }
  bool key(string_t& name) override {
    return open.back().insert(name).second || stop(Refusal::kDuplicateKey);
  }
  bool end_object() override {
    open.pop_back();
    return true;
  }
  bool start_array(std::size_t) override { return deeper(); }
  bool end_array() override {
    open.pop_back();
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
    return stop(Refusal::kNotJson);
  }
};

}  // namespace

ParsedJson parse_object(std::string_view text) {
  ParsedJson out;
  Checker check;
  const bool good = json::sax_parse(text, &check);
  if (!good || !check.is_object) {
    out.why = check.why == Refusal::kNone ? Refusal::kNotJson : check.why;
    return out;
  }
  out.value = json::parse(text, nullptr, false);
  if (!out.value.is_object()) out.why = Refusal::kNotJson;
  return out;
}

const std::string* text_of(const json& object, const char* key) {
  const auto at = object.find(key);
  return at == object.end() ? nullptr : at->get_ptr<const std::string*>();
}

}  // namespace bulkhead::grant
