#include "daemon/siem/siem.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "daemon/siem/opener.h"
#include "daemon/sight/privileges.h"

namespace bulkhead::daemon::siem {
namespace {

constexpr int kTurn_ms = 200;
constexpr std::uint64_t kMostFileBytes = 128u << 20;  // position and names

void tell(int fd, const Status& status) {
  if (fd >= 0) (void)!::pwrite(fd, &status, sizeof status, 0);
}

int refuse(int status_fd, const std::string& why) {
  std::fprintf(stderr, "<3>bulkheadd: siem: %s\n", why.c_str());
  Status s{};
  s.magic = kStatusMagic;
  s.state = LinkState::kStuck;
  why.copy(s.text, sizeof s.text - 1);
  tell(status_fd, s);
  return 1;
}

}  // namespace

std::string orders_text(const Orders& o) {
  const Settings& s = o.settings;
  return nlohmann::json{{"url", s.url},
                        {"ca", s.ca},
                        {"cert", s.cert},
                        {"key", s.key},
                        {"name", s.name},
                        {"enterprise", s.enterprise},
                        {"overlap", s.overlap_bytes},
                        {"log", o.log},
                        {"state", o.state},
                        {"host", o.host},
                        {"version", o.version},
                        {"parent", o.parent_pid}}
      .dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

bool parse_orders(const std::string& text, Orders& out) {
  const auto j = nlohmann::json::parse(text, nullptr, false);
  if (!j.is_object()) return false;
  constexpr std::size_t kMost = 4096;
  Settings& s = out.settings;
  s.url = text_in(j, "url", kMost);
  s.ca = text_in(j, "ca", kMost);
  s.cert = text_in(j, "cert", kMost);
  s.key = text_in(j, "key", kMost);
  s.name = text_in(j, "name", kMost);
  s.enterprise = static_cast<std::uint32_t>(number_in(j, "enterprise"));
  s.overlap_bytes = static_cast<std::uint64_t>(number_in(j, "overlap"));
  out.log = text_in(j, "log", kMost);
  out.state = text_in(j, "state", kMost);
  out.host = text_in(j, "host", kMost);
  out.version = text_in(j, "version", kMost);
  out.parent_pid = static_cast<int>(number_in(j, "parent"));
  return !s.url.empty() && !out.log.empty() && !out.state.empty();
}

int siem_main(const Orders& orders, int status_fd, ExporterOptions how) {
  (void)std::signal(SIGPIPE, SIG_IGN);
  auto target = parse_target(orders.settings.url);
  if (!target.ok()) return refuse(status_fd, "[siem] url: " + target.problem);
  TlsContext tls;
  if (target->tls) {
    auto loaded = TlsContext::load(orders.settings, *target);
    if (!loaded.ok()) return refuse(status_fd, loaded.problem);
    tls = std::move(*loaded);
    how.tls = &tls;
  }
  const UniqueFd state{::open(orders.state.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (!state.ok()) return refuse(status_fd, orders.state + ": " + std::strerror(errno));
  auto files = open_position_files(state.get());
  if (!files.ok()) return refuse(status_fd, files.problem);
  auto opener = start_opener(orders.log);
  if (!opener.ok()) return refuse(status_fd, opener.problem);
  const bulkhead::Status dropped = drop_privileges(orders.parent_pid, kMostFileBytes);
  if (!dropped.ok()) return refuse(status_fd, dropped.text());

  PositionStore store{std::move(*files)};
  const auto log = remote_files(std::move(*opener));
  how.target = *target;
  how.enterprise = orders.settings.enterprise;
  how.link.overlap_bytes = orders.settings.overlap_bytes;
  how.host = orders.host;
  how.version = orders.version;
  Exporter exporter{*log, store, std::move(how)};
  for (;;) {  // SIGKILL ends it at any instruction: the position is all there is to save
    tell(status_fd, exporter.status());
    exporter.turn(kTurn_ms);
  }
}

int siem_child_main() {
  std::array<char, 32768> text{};
  const ssize_t n = ::pread(kOrdersFd, text.data(), text.size(), 0);
  Orders orders;
  if (n <= 0 || !parse_orders({text.data(), static_cast<std::size_t>(n)}, orders)) return 2;
  ::close(kOrdersFd);
  return siem_main(orders, kStatusFd, {});
}

}  // namespace bulkhead::daemon::siem
