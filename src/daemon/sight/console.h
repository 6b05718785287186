// What the console's page asks for, as JSON. docs/console.md describes it.
#pragma once
#include <string>

#include "daemon/sight/history.h"
#include "wire/picture.h"

namespace bulkhead::daemon {

struct ConsoleInput {
  const wire::Picture* picture = nullptr;  // null: none yet
  bool fresh = false;
  double age_s = 0;
};
[[nodiscard]] std::string console_state(const ConsoleInput& input);
[[nodiscard]] std::string console_history(const History& history);

}  // namespace bulkhead::daemon
