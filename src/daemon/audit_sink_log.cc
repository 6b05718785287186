// The sink that bulkheadd has: the tamper-evident log (docs/formats/log.md) and the thread that makes it durable and signs it.
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "audit/sync_thread.h"
#include "audit/writer.h"
#include "daemon/audit_sink.h"

namespace bulkhead::daemon {
namespace {

// The writer, and its thread beside it; what entries() and record() answer is the writer's.
class LogSink final : public audit::Sink {
 public:
  LogSink(std::unique_ptr<audit::Writer> writer, audit::SyncTimes times)
      : writer_(std::move(writer)), sync_(*writer_, times, [](const Status& s) {
          if (!s.ok()) std::fprintf(stderr, "bulkheadd: the audit log: %s\n", s.text());
        }) {}
  Status entries(std::span<const abi::AuditEntry> batch) noexcept override {
    return writer_->entries(batch);
  }
  Status record(std::string_view json) noexcept override { return writer_->record(json); }
  std::uint64_t size() const noexcept override { return writer_->size(); }
  std::uint64_t durable() const noexcept override { return writer_->durable(); }

 private:
  std::unique_ptr<audit::Writer> writer_;
  audit::SyncThread sync_;  // ends before the writer
};

// The directory, 0700; its parents are the state directory's.
std::string make_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) return "";
  return "cannot make the audit log's directory " + path + ": " + std::strerror(errno);
}

}  // namespace

bool has_audit_sink() { return true; }

Outcome<AuditSink> open_audit_sink(const AuditSinkOptions& options) {
  if (std::string problem = make_directory(options.directory); !problem.empty())
    return Outcome<AuditSink>::because(std::move(problem));
  auto files = std::make_unique<audit::PosixFiles>(options.directory);
  if (!files->ok())
    return Outcome<AuditSink>::because("cannot open the audit log's directory " +
                                       options.directory);
  audit::WriterOptions how;
  how.sync_ms = options.sync_ms;
  auto writer = audit::Writer::open(std::move(files), std::make_unique<audit::SystemClock>(), how);
  if (!writer.ok()) return Outcome<AuditSink>::because("the audit log: " + writer.problem);
  AuditSink out;
  out.found = (*writer)->recovered();
  out.sink = std::make_unique<LogSink>(std::move(*writer), audit::SyncTimes{options.sync_ms, 1000});
  return out;
}

}  // namespace bulkhead::daemon
