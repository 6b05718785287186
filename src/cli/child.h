// Child processes of the self-tests: a command with an environment of its own, spoken to by lines.
#pragma once
#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"

namespace bulkhead::cli {

using Variables = std::vector<std::pair<std::string, std::string>>;  // an empty value: unset

class Talk {
 public:
  // Starts it, with our environment changed by `variables`. Not found: running() is false.
  Talk(const std::vector<std::string>& command, const Variables& variables);
  Talk(const Talk&) = delete;
  Talk& operator=(const Talk&) = delete;
  ~Talk();  // ends it

  void say(const std::string& text);
  void end_input() { in_.reset(); }
  // The next line without its end; "": it ended, or said nothing for so long.
  [[nodiscard]] std::string line(int patience_ms);
  // Waits for its end; what it said since. The exit code, 128 + n by a signal, -1: it did not end, and was killed.
  int wait(int patience_ms, std::string& said);
  [[nodiscard]] bool running() const { return pid_ > 0; }

 private:
  bool more(int timeout_ms);  // false: nothing came

  pid_t pid_ = -1;
  UniqueFd in_, out_, ended_;
  std::string said_;
};

}  // namespace bulkhead::cli
