#include "daemon/sight/sight.h"

#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "daemon/sight/picture_reader.h"
#include "daemon/sight/privileges.h"
#include "daemon/sight/server.h"

namespace bulkhead::daemon {
namespace {

int refuse(const Status& status) {
  std::fprintf(stderr, "<3>bulkheadd: sight: %s (%d)\n", status.text(), status.error_number());
  return 1;
}

}  // namespace

int sight_main(int picture_fd, const std::vector<Listener>& listeners,
               const SightOptions& options) {
  (void)std::signal(SIGPIPE, SIG_IGN);
  PictureReader picture;
  const Status opened = picture.open(picture_fd);
  if (!opened.ok()) return refuse(opened);
  ::close(picture_fd);
  const Status dropped = drop_privileges(options.parent_pid);
  if (!dropped.ok()) return refuse(dropped);
  SightServer server{picture, listeners, options};
  const Status confined = confine();
  if (!confined.ok() && confined.code() != Errc::kNotReady) return refuse(confined);
  for (;;) server.turn(1000);  // SIGTERM ends it: it has nothing to save
}

}  // namespace bulkhead::daemon
