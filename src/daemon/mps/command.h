// One command to an MPS control daemon: a process of `nvidia-cuda-mps-control` with the command on its standard input, as a person would
// type it. The control loop starts it and hears of its end; nothing here waits. docs/spatial.md "MPS, managed".
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "daemon/poller.h"

namespace bulkhead::daemon {

// Where a control daemon lives, and as whom.
struct MpsPlace {
  std::string program;  // an absolute path
  std::string root;     // DIR/mps/UID: there already, that user's
  std::string group;    // below it: made by the program's own process, as that user
  uid_t uid = 0;
  bool change_user = false;  // we are root and it is another's
  bool partitions = false;   // started with -S, in a directory of its own name
  [[nodiscard]] std::string home() const { return root + "/" + group + (partitions ? "+S" : ""); }
  [[nodiscard]] std::string pipe() const { return home() + "/pipe"; }
  [[nodiscard]] std::string log() const { return home() + "/log"; }
};

struct MpsReply {
  enum class How : std::uint8_t { kEnded, kTimedOut, kNotStarted };
  How how = How::kNotStarted;
  int exit_code = 0;     // kEnded; 128 + n by a signal
  int error_number = 0;  // kNotStarted
  std::string text;      // what it said on both outputs, at most kMostText
  [[nodiscard]] bool ok() const { return how == How::kEnded && exit_code == 0; }
};

class MpsCommand {
 public:
  static constexpr std::uint64_t kPatience_ns = 10'000'000'000;
  static constexpr std::size_t kMostText = 64u << 10;
  using Done = std::function<void(const MpsReply&)>;

  explicit MpsCommand(Poller& poller) : poller_(poller) {}
  MpsCommand(const MpsCommand&) = delete;
  MpsCommand& operator=(const MpsCommand&) = delete;
  ~MpsCommand();

  // Starts it with `input`, or with `argument` if that is not empty ("-d"; of a place with partitions that is "-d -S"). `done` is called once, from a handler of the poller, from tick(), or
  // before this returns if it could not be started. One at a time.
  void start(const MpsPlace& place, const std::string& argument, const std::string& input,
             std::uint64_t now_ns, Done done);
  [[nodiscard]] bool running() const { return pid_ > 0; }
  // Ends what has taken too long. When it is to be called again, ms; -1: not.
  int tick(std::uint64_t now_ns);

 private:
  void on_output();
  void on_end();
  void finish(MpsReply::How how, int exit_code, int error_number);

  Poller& poller_;
  pid_t pid_ = -1;
  UniqueFd ended_, output_;
  std::string text_;
  std::uint64_t deadline_ns_ = 0;
  Done done_;
  std::vector<pid_t> killed_;  // not reaped yet
};

// Why a reply is not ok(), for a message.
[[nodiscard]] std::string problem_of(const MpsReply& reply);
// The absolute path of a program: as it is, or the first on PATH; "": there is none.
[[nodiscard]] std::string find_program(const std::string& name);

// What the program prints, read with suspicion: lines of nothing but a pid.
[[nodiscard]] std::vector<std::uint32_t> pids_of(const std::string& text);
// The first word of the first line that is not empty, in capitals: "ACTIVE", "FAULT"; "" = none.
[[nodiscard]] std::string status_of(const std::string& text);

}  // namespace bulkhead::daemon
