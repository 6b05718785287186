#include "cli/top.h"

#include <fmt/format.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "cli/install.h"
#include "cli/machine.h"
#include "cli/request.h"
#include "cli/top_screen.h"
#include "cli/top_text.h"

namespace bulkhead::cli {
namespace {

void print(const TopPicture& picture, bool as_json) {
  if (as_json) {
    fmt::print("{}\n", top_json(picture));
    return;
  }
  const TopView view{TopSort::kUsed, true, 80};
  for (const Line& l : head_lines(picture, view)) fmt::print("{}\n", l.text);
  for (const Line& l : body_lines(picture, view)) fmt::print("{}\n", l.text);
}

void pause(double seconds) {
  timespec left{};
  left.tv_sec = static_cast<time_t>(seconds);
  left.tv_nsec = static_cast<long>((seconds - static_cast<double>(left.tv_sec)) * 1e9);
  while (::nanosleep(&left, &left) != 0 && errno == EINTR) {
  }
}

}  // namespace

int top(const TopOptions& options) {
  disarm_environment();
  auto machine =
      open_machine(options.simulator.empty() ? env_or_empty("BULKHEAD_SIM") : options.simulator,
                   Directory::kMayBeMissing);
  if (!machine.ok()) return fail(kExitProblem, machine.problem);
  TopPicture before;  // tells what was had since
  const auto look_again = [&] {
    TopPicture now = look(**machine);
    add_delivered(now, before);
    before = now;
    return now;
  };
  const bool terminal = ::isatty(STDIN_FILENO) == 1 && ::isatty(STDOUT_FILENO) == 1;
  if (!options.batch && !options.json && terminal) {
    return top_screen(look_again, options.delay_s);
  }
  const bool endless = options.rounds == 0 && (options.batch || options.json);
  const int rounds = options.rounds == 0 ? 1 : options.rounds;
  for (int i = 0; endless || i < rounds; ++i) {
    if (i > 0) {
      pause(options.delay_s);
      if (!options.json) fmt::print("\n");
    }
    print(look_again(), options.json);
    if (std::fflush(stdout) != 0) return kExitProblem;  // nobody reads any more
  }
  return kExitOk;
}

}  // namespace bulkhead::cli
