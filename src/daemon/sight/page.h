// The console's files, embedded at build time from page/ (embed.cmake). Nothing is read from disk by the child.
#pragma once
#include <array>
#include <string_view>

namespace bulkhead::daemon {

struct PageFile {
  std::string_view path;
  std::string_view type;
  std::string_view text;
};
extern const std::array<PageFile, 4> kPageFiles;

}  // namespace bulkhead::daemon
