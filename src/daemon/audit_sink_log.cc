// The sink that bulkheadd has: the tamper-evident log (docs/formats/log.md) and the thread that makes it durable and signs it.
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "audit/reader.h"
#include "audit/sync_thread.h"
#include "audit/upkeep.h"
#include "audit/writer.h"
#include "daemon/audit_sink.h"

namespace bulkhead::daemon {
namespace {

// The writer, and its thread beside it; what entries() and record() answer is the writer's.
class LogSink final : public audit::Sink {
 public:
  LogSink(std::unique_ptr<audit::Writer> writer, const AuditSinkOptions& options)
      : writer_(std::move(writer)),
        directory_(options.directory),
        told_(options.told),
        upkeep_(*writer_, directory_, writer_->origin(), options.upkeep,
                [this](bool good, const std::string& text) { tell(good, text); }),
        sync_(*writer_, {options.sync_ms, kCheckpoint_ms}, [this](const Status& s) {
          tell(s.ok(), s.ok() ? "the audit log is written again" : problem_of(s));
        }) {
    upkeep_.start();
  }
  Status entries(std::span<const abi::AuditEntry> batch) noexcept override {
    return writer_->entries(batch);
  }
  Status record(std::string_view json) noexcept override { return writer_->record(json); }
  std::uint64_t size() const noexcept override { return writer_->size(); }
  std::uint64_t durable() const noexcept override { return writer_->durable(); }
  audit::SinkFigures figures() const noexcept override {
    audit::SinkFigures f = writer_->figures();
    const audit::UpkeepFigures u = upkeep_.figures();
    f.cosigned = u.cosigned;
    f.packed = u.packed;
    f.removed = u.removed;
    f.witnesses = u.witnesses;
    f.witnesses_away = u.away;
    return f;
  }
  std::uint64_t arrived(std::uint64_t before, std::uint64_t found) noexcept override {
    if (found <= before) return 0;
    auto log = audit::LogReader::open(std::make_unique<audit::PosixFiles>(directory_));
    return log.ok() ? (*log)->handed_over(before, found) : found - before;
  }

 private:
  static std::string problem_of(const Status& s) {
    return std::string{"the audit log: "} + s.text() +
           (s.error_number() != 0 ? std::string{": "} + std::strerror(s.error_number()) : "");
  }
  void tell(bool good, const std::string& text) const {
    if (!good) std::fprintf(stderr, "bulkheadd: %s\n", text.c_str());
    if (told_) told_(good, text);
  }
  static constexpr unsigned kCheckpoint_ms = 1000;

  std::unique_ptr<audit::Writer> writer_;
  const std::string directory_;
  const std::function<void(bool, const std::string&)> told_;
  audit::Upkeep upkeep_;
  audit::SyncThread sync_;  // ends first: a last checkpoint
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
  how.segment_s = options.segment_s;
  if (options.segment_bytes != 0) how.segment_bytes = options.segment_bytes;
  auto writer = audit::Writer::open(std::move(files), std::make_unique<audit::SystemClock>(), how);
  if (!writer.ok()) return Outcome<AuditSink>::because("the audit log: " + writer.problem);
  AuditSink out;
  out.found = (*writer)->recovered();
  out.sink = std::make_unique<LogSink>(std::move(*writer), options);
  return out;
}

}  // namespace bulkhead::daemon
