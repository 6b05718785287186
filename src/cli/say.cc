#include "cli/say.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstring>

#include "policy/size.h"

namespace bulkhead::cli {

namespace {

// A name or a path that somebody else chose: one line, and nothing that a terminal obeys. UTF-8 stays, less its C1 block.
std::string harmless(std::string text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0u;
    if (c < ' ' || c == 0x7f) text[i] = '?';
    if (c == 0xc2 && next >= 0x80 && next < 0xa0) text[i] = text[i + 1] = '?';
  }
  return text;
}

}  // namespace

void warn(const std::string& text) {
  // One write, so that lines of several processes do not mix.
  const std::string line = "bulkhead: " + harmless(text) + "\n";
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
