// The lines of `bulkhead top`, for a terminal of any width and for pipes; and its JSON.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "cli/top_data.h"

namespace bulkhead::cli {

enum class Style { kPlain, kTitle, kHead, kSoft, kWarn, kAlarm };
struct Line {
  std::string text;  // ASCII, at most the width
  Style style = Style::kPlain;
};
enum class TopSort { kUsed, kLimit, kName };
struct TopView {
  TopSort sort = TopSort::kUsed;
  bool processes = true;
  std::size_t width = 80;
};
// The head stays in place, the body scrolls.
[[nodiscard]] std::vector<Line> head_lines(const TopPicture& p, const TopView& view);
[[nodiscard]] std::vector<Line> body_lines(const TopPicture& p, const TopView& view);
[[nodiscard]] std::vector<Line> help_lines();
[[nodiscard]] std::string top_json(const TopPicture& p);  // one line

}  // namespace bulkhead::cli
