// SiemChild: keeps one exporter running, and says what it says. A duty of the control loop: starting it is one spawn, a turn asks
// the kernel once whether it lives and reads one page.
#pragma once
#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "daemon/duty.h"
#include "daemon/siem/siem.h"
#include "wire/picture.h"

namespace bulkhead::daemon {

class SiemChild : public Duty {
 public:
  using Tell = std::function<void(wire::EventKind, wire::Severity, const std::string&)>;
  SiemChild() = default;
  ~SiemChild() override;  // ends the child

  // Nothing is started where settings name no url. The child is replaced if there is one: certificates are read again. Never waits.
  // The problem, or "".
  [[nodiscard]] std::string take(const siem::Orders& orders, Tell tell);
  // Restarts it if it has ended: after 1 s, 2 s ... 60 s.
  int tick(const Now& now) override;
  const char* name() const override { return "siem"; }
  void stop();
  void fill(wire::DaemonView& view) const;
  // One line for `status` while events are not taken; else "".
  [[nodiscard]] std::string text() const;
  [[nodiscard]] pid_t pid() const { return pid_; }

  std::string program = "/proc/self/exe";  // run as `program --siem`

 private:
  bool launch();
  void end();
  void read_status();
  void say();

  siem::Orders orders_;
  Tell tell_;
  UniqueFd status_;
  siem::Status now_{}, before_{};  // as last read; sums of children that ended
  siem::LinkState told_ = siem::LinkState::kStarting;
  std::string told_text_;
  std::uint64_t told_missed_ = 0;
  pid_t pid_ = 0;
  std::vector<pid_t> leaving_;
  std::uint64_t started_ns_ = 0, due_ns_ = 0, pause_ns_ = 0;
  bool stopped_ = true;
};

}  // namespace bulkhead::daemon
