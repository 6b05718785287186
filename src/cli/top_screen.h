// The screen of `bulkhead top`. The only part that knows curses.
#pragma once
#include <functional>

#include "cli/top_data.h"

namespace bulkhead::cli {

// Until q. `look_again` is called each `delay_s`. Returns an exit code; a terminal that curses does not know is one line
// on stderr.
int top_screen(const std::function<TopPicture()>& look_again, double delay_s);

}  // namespace bulkhead::cli
