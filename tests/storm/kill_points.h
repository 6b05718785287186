// The names of the kill points as they stand in the source, so that a new one cannot be forgotten by a test.
#pragma once
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>

namespace bulkhead::shm {

inline std::set<std::string> kill_points() {
  std::set<std::string> out;
  const std::regex pattern{"BH_KILL_POINT\\(\\s*\"([a-z_.]+)\"\\)"};
  for (const auto& entry : std::filesystem::directory_iterator{BH_SOURCE_DIR "/src/shm"}) {
    std::ifstream file{entry.path()};
    const std::string text{std::istreambuf_iterator<char>{file}, {}};
    for (std::sregex_iterator it{text.begin(), text.end(), pattern}, end; it != end; ++it) {
      out.insert((*it)[1]);
    }
  }
  return out;
}
inline bool is_share(const std::string& point) { return point.rfind("share.", 0) == 0; }

}  // namespace bulkhead::shm
