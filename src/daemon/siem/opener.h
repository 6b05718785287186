// The small process that stays privileged: it opens files of the log for the exporter, for reading, and only those that hold
// nothing secret. And the log's directory as the exporter sees it through that process.
#pragma once
#include <sys/types.h>

#include <memory>
#include <string>
#include <string_view>

#include "audit/files.h"
#include "base/fd.h"
#include "base/outcome.h"

namespace bulkhead::daemon::siem {

// segment/N.data, .journal, .zst, checkpoints, host.pub: everything else is refused.
[[nodiscard]] bool may_open(std::string_view name);

// Answers on `socket` (SOCK_SEQPACKET) until the other end is closed. Returns an exit code.
int serve_opener(int socket, int directory);
// Forks it: it keeps the directory and its end, and dies with this process. The exporter's end.
[[nodiscard]] Outcome<UniqueFd> start_opener(const std::string& log_directory);

// Reading only: everything else is EROFS.
[[nodiscard]] std::unique_ptr<audit::Files> remote_files(UniqueFd socket);

}  // namespace bulkhead::daemon::siem
