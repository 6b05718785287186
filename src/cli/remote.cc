#include "cli/remote.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdlib>

#include "cli/say.h"
#include "wire/lines.h"

namespace bulkhead::cli {
namespace {

std::string text_of(const wire::Verdict& v) {
  if (v.text[0] != '\0') return v.text;
  return v.header.result == 0 ? "" : fmt::format("the daemon refused (class {})", v.header.result);
}

std::string unheard(const Status& s) { return describe(s) + "; look at it, or use --no-daemon"; }

template <class Q>
std::string verdict(wire::Client& client, wire::Kind kind, Q& request, bool& ok) {
  wire::Verdict v{};
  const Status s = client.call(kind, request, v, kDaemonPatience_ms);
  ok = s.ok() && v.header.result == 0;
  return s.ok() ? text_of(v) : describe(s) + "; look at it with 'bulkhead doctor'";
}

// The queue's place, on a line of its own or over the last one.
class PlaceLine {
 public:
  explicit PlaceLine(bool quiet) : quiet_(quiet), terminal_(::isatty(STDERR_FILENO) == 1) {}
  ~PlaceLine() {
    if (shown_ && terminal_) std::fputs("\n", stderr);
  }
  void show(const wire::Verdict& v) {
    if (quiet_) return;
    fmt::print(stderr, "{}bulkhead: waiting for room: place {} of {}{}",
               terminal_ ? "\r\x1b[K" : "", v.place, v.waiting, terminal_ ? "" : "\n");
    std::fflush(stderr);
    shown_ = true;
  }

 private:
  bool quiet_, terminal_;
  bool shown_ = false;
};

// Waits for the daemon's next word. 0, or 128 + the signal that came instead.
int wait_for_word(int socket, int signals) {
  for (;;) {
    pollfd ready[2] = {{socket, POLLIN, 0}, {signals, POLLIN, 0}};
    if (::poll(ready, 2, -1) < 0) continue;
    signalfd_siginfo info{};
    if (ready[1].revents != 0 && ::read(signals, &info, sizeof info) == sizeof info) {
      if (info.ssi_signo == SIGTSTP)
        ::raise(SIGSTOP);
      else if (info.ssi_signo != SIGCONT)
        return 128 + static_cast<int>(info.ssi_signo);
    }
    if (ready[0].revents != 0) return 0;
  }
}

}  // namespace

Daemon connect_daemon(const shm::Dir& dir, wire::Client& client, std::string& problem) {
  struct stat st {};
  const uid_t owner = shm::stat_fd(dir.fd.get(), st) ? st.st_uid : dir.euid;
  auto made = wire::Client::connect(dir.fd.get(), owner, kDaemonPatience_ms);
  if (made.ok()) {
    client = std::move(*made);
    return Daemon::kAnswers;
  }
  problem = describe(made.status());
  return made.status().code() == Errc::kNotFound ? Daemon::kNone : Daemon::kSilent;
}

int enrol(wire::Client& client, wire::RegisterRequest& request, bool quiet, std::string& tenant,
          std::string& problem) {
  wire::begin(request, wire::Kind::kRegister, client.next_sequence());
  if (const Status s = client.send(&request, sizeof request, kDaemonPatience_ms); !s.ok()) {
    problem = unheard(s);
    return kExitOurs;
  }
  sigset_t set;
  ::sigemptyset(&set);
  for (const int s : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT}) ::sigaddset(&set, s);
  const UniqueFd signals{::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)};
  PlaceLine line{quiet};
  for (bool queued = false;;) {
    if (queued) {
      if (const int code = wait_for_word(client.fd(), signals.get()); code != 0) {
        client.close();  // leaves the queue
        return code;
      }
    }
    wire::Verdict v{};
    const auto got =
        client.receive(&v, sizeof v, wire::Kind::kRegister, client.sequence(), kDaemonPatience_ms);
    if (!got.ok()) {
      problem = unheard(got.status());
      return kExitOurs;
    }
    if (*got == sizeof v && v.queued != 0 && v.header.result == 0) {
      line.show(v);
      queued = true;
      continue;
    }
    if (v.header.result != 0) {
      problem = text_of(v);
      return kExitOurs;
    }
    tenant = v.name;
    if (v.text[0] != '\0' && !quiet) warn(v.text);
    return 0;
  }
}

std::string ask_verdict(wire::Client& client, wire::Kind kind, wire::NameRequest& request,
                        bool& ok) {
  return verdict(client, kind, request, ok);
}
std::string ask_verdict(wire::Client& client, wire::Kind kind, wire::UpdateRequest& request,
                        bool& ok) {
  return verdict(client, kind, request, ok);
}

std::string ask_verdict(wire::Client& client, wire::Kind kind, wire::Empty& request, bool& ok) {
  return verdict(client, kind, request, ok);
}

std::string give_grant(wire::Client& client, const std::string& tenant, const std::string& token,
                       bool& ok) {
  ok = false;
  wire::GrantRequest q{};
  if (tenant.size() >= sizeof q.name) return "'" + tenant + "' is not the name of a tenant";
  if (token.empty() || token.size() > sizeof q.token)
    return "grant refused: too-long: a token has at most 8192 bytes";
  wire::put_text(q.name, tenant.c_str());
  q.token_bytes = static_cast<std::uint32_t>(token.size());
  token.copy(q.token, token.size());
  return verdict(client, wire::Kind::kGrant, q, ok);
}

std::string ask_who(wire::Client& client) {
  wire::Empty q{};
  wire::Verdict v{};
  const Status s = client.call(wire::Kind::kWhoAmI, q, v, kDaemonPatience_ms);
  return s.ok() && v.header.result == 0 ? std::string{v.name} : std::string{};
}

std::string ask_condition(const shm::Dir& dir) {
  wire::Client client;
  std::string problem;
  if (!dir.fd.ok() || connect_daemon(dir, client, problem) != Daemon::kAnswers) return "";
  wire::Empty request{};
  wire::Verdict v{};
  const Status s = client.call(wire::Kind::kCondition, request, v, kDaemonPatience_ms);
  return s.ok() && v.header.result == 0 ? wire::clean_text(v.text, sizeof v.text - 1) : "";
}

bool parse_wait(const std::string& text, std::uint64_t& ms) {
  if (text.empty() || text == "forever") {
    ms = ~0ull;
    return true;
  }
  char* end = nullptr;
  if (text[0] < '0' || text[0] > '9') return false;
  const unsigned long long number = std::strtoull(text.c_str(), &end, 10);
  const std::string unit = end;
  const std::uint64_t scale = unit.empty() || unit == "s" ? 1000
                              : unit == "m"               ? 60'000
                              : unit == "h"               ? 3'600'000
                                                          : 0;
  if (scale == 0 || number == 0 || number > 1'000'000'000) return false;
  ms = number * scale;
  return true;
}

}  // namespace bulkhead::cli
