#include "cli/machine.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/fd.h"
#include "base/places.h"
#include "cli/install.h"

namespace bulkhead::cli {
namespace {

// Where open_dir() looks, for messages; it decides, this only names.
std::string directory_name() {
  if (std::string asked = env_or_empty("BULKHEAD_DIR"); !asked.empty()) return asked;
  return ::geteuid() == 0 ? "/run/bulkhead" : env_or_empty("XDG_RUNTIME_DIR") + "/bulkhead";
}

std::string directory_problem(const Status& status) {
  const char* fix = "set BULKHEAD_DIR to the absolute path of a directory you own";
  if (status.code() == Errc::kUntrusted) {
    fix = "it must belong to you or root, and nobody else may write in it";
  }
  if (status.code() == Errc::kIo) {
    fix = "make its parent directory, or name another with BULKHEAD_DIR";
  }
  return fmt::format("{}: {}; {}", directory_name(), describe(status), fix);
}

}  // namespace

Outcome<std::unique_ptr<Machine>> open_machine(const std::string& profile, Directory directory) {
  using Out = Outcome<std::unique_ptr<Machine>>;
  auto out = std::make_unique<Machine>();
  if (!profile.empty()) {
    out->simulator = find_simulator();
    if (out->simulator.empty()) {
      return Out::because(
          "the simulated driver is not installed: expected ../sim beside this program or "
          "/usr/lib/bulkhead/sim");
    }
    out->simulated = true;
    ::setenv("BULKHEAD_SIM", profile.c_str(), 1);
  }
  // The directory first: the simulated NVML keeps its state below it. A caller's own
  // LD_LIBRARY_PATH may put the simulated driver in front, which only loading it tells; NVML loads
  // without the directory.
  const auto open = [&] {
    auto nvml = Nvml::open(out->simulator);
    if (nvml.ok()) {
      out->simulated |= nvml->simulated();
      out->nvml = std::move(*nvml);
    } else {
      out->nvml_problem = nvml.problem;
      out->simulated |= nvml.problem.starts_with(gpu::kSimulatedProblem);
    }
  };
  if (!out->simulated) open();
  auto dir = shm::open_dir(shm::dir_options(out->simulated, directory == Directory::kCreate));
  const bool missing =
      !dir.ok() && directory == Directory::kMayBeMissing && dir.status().code() == Errc::kNotFound;
  if (!dir.ok() && !missing) return Out::because(directory_problem(dir.status()));
  if (dir.ok()) out->dir = std::move(*dir);
  out->directory = missing ? directory_name() : std::string{out->dir.path};
  if (!out->nvml) open();
  out->state = out->simulated ? out->directory + "/sim" : user_state_directory();
  return Out{std::move(out)};
}

Daemon ask_daemon(const shm::Dir& dir) {
  sockaddr_un at{};
  at.sun_family = AF_UNIX;
  const std::string path = fmt::format("/proc/self/fd/{}/control.sock", dir.fd.get());
  std::memcpy(at.sun_path, path.c_str(), path.size() + 1);
  const UniqueFd socket{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0) {
    return Daemon::kAnswers;
  }
  return errno == ENOENT ? Daemon::kNone : Daemon::kSilent;
}

}  // namespace bulkhead::cli
