#include "cli/say.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstring>

#include "policy/size.h"

namespace bulkhead::cli {

void warn(const std::string& text) {
  // One write, so that lines of several processes do not mix.
  const std::string line = "bulkhead: " + text + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
}

int fail(int code, const std::string& text) {
  warn(text);
  return code;
}

std::string describe(const Status& status) {
  if (status.error_number() == 0) return status.text();
  return fmt::format("{}: {}", status.text(), std::strerror(status.error_number()));
}

std::string short_size(std::uint64_t bytes) {
  char text[policy::kSizeText];
  return policy::format_size(bytes, text);
}

std::string exact_text(std::uint64_t bytes) {
  char text[policy::kSizeText];
  return policy::format_exact(bytes, text);
}

std::string size_text(std::uint64_t bytes) {
  char text[policy::kSizeText];
  std::string rounded = policy::format_size(bytes, text);
  policy::Size back;
  if (policy::parse_size(text, policy::Grammar::kHami, &back) && back.bytes == bytes)
    return rounded;
  return fmt::format("{} ({} B)", rounded, bytes);
}

}  // namespace bulkhead::cli
