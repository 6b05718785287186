// Why here and not in the library or the daemon: the daemon opens no path of a tenant's, the program's process may be anywhere
// (another root, another user, no such file) and should not wake for it; `run` is the tenant's, has the file's name, and lives as long as
// the command. If it is killed the grant runs out, which the daemon tells at 80 % of its life; `bulkhead grant renew` does the same.
#include "cli/grant_watch.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "cli/grant.h"
#include "cli/remote.h"
#include "cli/say.h"

namespace bulkhead::cli {
namespace {
constexpr int kLook_ms = 1000;  // file systems without inotify, and a daemon that was not there
}

GrantWatch::~GrantWatch() {
  if (!thread_.joinable()) return;
  const std::uint64_t one = 1;
  (void)!::write(stop_.get(), &one, sizeof one);
  thread_.join();
}

std::string GrantWatch::give() {
  std::string token;
  if (std::string p = read_token(file_, token); !p.empty()) return p;
  if (token == given_) return {};
  wire::Client client;
  std::string problem;
  if (connect_daemon(dir_, client, problem) != Daemon::kAnswers)
    return "no daemon takes the grant" + (problem.empty() ? "" : ": " + problem);
  bool ok = false;
  std::string text = give_grant(client, tenant_, token, ok);
  if (!ok) return text;
  given_ = std::move(token);
  return {};
}

std::string GrantWatch::begin() { return give(); }

std::string give_early(const shm::Dir& dir, std::string tenant, const std::string& file) {
  if (file.empty()) return {};
  wire::Client client;
  std::string problem;
  if (tenant.empty() && connect_daemon(dir, client, problem) == Daemon::kAnswers)
    tenant = ask_who(client);
  client.close();
  if (tenant.empty()) return {};
  GrantWatch once{dir, tenant, file};
  problem = once.begin();
  for (const char* unknown : {": no-tenant", ": not-yours"}) {  // it may be made in a moment
    if (problem.find(unknown) != std::string::npos) return {};
  }
  return problem.empty() ? "" : "--grant: " + problem;
}

void GrantWatch::watch() {
  stop_.reset(::eventfd(0, EFD_CLOEXEC));
  if (stop_.ok()) thread_ = std::thread([this] { run(); });
}

void GrantWatch::run() {
  const std::size_t slash = file_.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : file_.substr(0, slash + 1);
  // the folder: a file that is replaced by rename is another file
  const UniqueFd notes{::inotify_init1(IN_CLOEXEC | IN_NONBLOCK)};
  if (notes.ok())
    (void)::inotify_add_watch(notes.get(), folder.c_str(), IN_CLOSE_WRITE | IN_MOVED_TO);
  for (;;) {
    pollfd ready[2] = {{stop_.get(), POLLIN, 0}, {notes.get(), POLLIN, 0}};
    ::poll(ready, notes.ok() ? 2 : 1, kLook_ms);
    if (ready[0].revents != 0) return;
    char note[4096];
    while (notes.ok() && ::read(notes.get(), note, sizeof note) > 0) {
    }
    const std::string problem = give();
    if (!problem.empty() && problem != last_problem_) warn("--grant: " + problem);
    last_problem_ = problem;
  }
}

}  // namespace bulkhead::cli
