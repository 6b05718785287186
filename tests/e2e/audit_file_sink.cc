// The audit's entries as a plain file, DIR/entries: per leaf its length (u16) and its bytes, one write(2) a batch. What a
// kill left half written is cut off at the next start, as the log's own recovery does.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

#include "base/fd.h"
#include "daemon/audit_sink.h"

namespace bulkhead::daemon {
namespace {

class FileSink final : public audit::Sink {
 public:
  // Counts the whole leaves.
  bool open(const std::string& path) {
    fd_.reset(::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    if (!fd_.ok()) return false;
    off_t at = 0;
    struct stat st {};
    if (::fstat(fd_.get(), &st) != 0) return false;
    for (std::uint16_t bytes = 0; ::pread(fd_.get(), &bytes, 2, at) == 2; ++size_) {
      if (at + 2 + bytes > st.st_size) break;
      at += 2 + bytes;
    }
    return ::ftruncate(fd_.get(), at) == 0;
  }

  Status entries(std::span<const abi::AuditEntry> batch) noexcept override {
    std::vector<char> out;
    for (const abi::AuditEntry& e : batch) put(out, &e, sizeof e);
    return append(out, batch.size());
  }
  Status record(std::string_view json) noexcept override {
    std::vector<char> out;
    const std::string whole = std::string{static_cast<char>(abi::kRecordByte)}.append(json);
    put(out, whole.data(), whole.size());
    return append(out, 1);
  }
  std::uint64_t size() const noexcept override { return size_; }
  std::uint64_t durable() const noexcept override { return 0; }

 private:
  static void put(std::vector<char>& out, const void* bytes, std::size_t count) {
    const auto length = static_cast<std::uint16_t>(count);
    const auto* l = reinterpret_cast<const char*>(&length);
    out.insert(out.end(), l, l + sizeof length);
    const auto* at = static_cast<const char*>(bytes);
    out.insert(out.end(), at, at + count);
  }
  Status append(const std::vector<char>& out, std::size_t leaves) {
    if (::write(fd_.get(), out.data(), out.size()) != static_cast<ssize_t>(out.size()))
      return Status{Errc::kIo, errno, "cannot write the test's file"};
    size_ += leaves;
    return {};
  }

  UniqueFd fd_;
  std::uint64_t size_ = 0;
};

}  // namespace

bool has_audit_sink() { return true; }

Outcome<AuditSink> open_audit_sink(const AuditSinkOptions& options) {
  std::error_code failed;
  std::filesystem::create_directories(options.directory, failed);
  auto sink = std::make_unique<FileSink>();
  if (!sink->open(options.directory + "/entries"))
    return Outcome<AuditSink>::because(options.directory + "/entries: " + std::strerror(errno));
  AuditSink out;
  out.found = sink->size();
  out.sink = std::move(sink);
  return Outcome<AuditSink>{std::move(out)};
}

}  // namespace bulkhead::daemon
