// The file system and the wall clock as the log sees them: real, or simulated with faults (sim_files.h of the tests).
// Names are relative to the log's directory. Results are 0 or a positive errno unless something else is said.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "audit/base64.h"

namespace bulkhead::audit {

class File {
 public:
  File() noexcept = default;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  virtual ~File() = default;
  // Bytes written or read (fewer than asked is possible), or -errno. 0 of a read: the end.
  virtual long write_at(const void* data, std::size_t n, std::uint64_t at) noexcept = 0;
  virtual long read_at(void* data, std::size_t n, std::uint64_t at) noexcept = 0;
  virtual int sync() noexcept = 0;  // fdatasync
  virtual int truncate(std::uint64_t size) noexcept = 0;
  [[nodiscard]] virtual std::uint64_t size() noexcept = 0;
};

enum class OpenMode : std::uint8_t { kRead, kWrite, kCreate, kFresh };  // kFresh: emptied

class Files {
 public:
  Files() noexcept = default;
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;
  virtual ~Files() = default;
  // Null: error_number says why. Created files are 0600.
  virtual std::unique_ptr<File> open(const std::string& name, OpenMode mode,
                                     int& error_number) noexcept = 0;
  virtual int rename(const std::string& from, const std::string& to) noexcept = 0;
  virtual int remove(const std::string& name) noexcept = 0;
  virtual int make_directory(const std::string& name) noexcept = 0;  // there already: 0
  virtual int sync_directory(const std::string& name) noexcept = 0;  // "." is the log's own
  // Names in a directory, sorted; empty if there is none.
  virtual std::vector<std::string> list(const std::string& directory) noexcept = 0;
  // Bytes that may still be written here by one who is not root; UINT64_MAX: unknown.
  virtual std::uint64_t room() noexcept { return UINT64_MAX; }
  // Keeps every other writer out until this object ends.
  virtual int lock() noexcept = 0;
};

class WallClock {
 public:
  WallClock() noexcept = default;
  WallClock(const WallClock&) = delete;
  WallClock& operator=(const WallClock&) = delete;
  virtual ~WallClock() = default;
  virtual std::uint64_t utc_ns() noexcept = 0;
  // Nanoseconds that nobody sets: what a step of utc_ns() is seen by. By default there are no steps.
  virtual std::uint64_t steady_ns() noexcept { return utc_ns(); }
};
class SystemClock final : public WallClock {
 public:
  std::uint64_t utc_ns() noexcept override;
  std::uint64_t steady_ns() noexcept
      override;  // CLOCK_BOOTTIME: goes on while the machine is suspended
};

// The files of a directory that exists. Reading needs no right to write.
class PosixFiles final : public Files {
 public:
  explicit PosixFiles(const std::string& directory);
  ~PosixFiles() override;
  [[nodiscard]] bool ok() const noexcept { return directory_ >= 0; }
  std::unique_ptr<File> open(const std::string& name, OpenMode mode,
                             int& error_number) noexcept override;
  int rename(const std::string& from, const std::string& to) noexcept override;
  int remove(const std::string& name) noexcept override;
  int make_directory(const std::string& name) noexcept override;
  int sync_directory(const std::string& name) noexcept override;
  std::vector<std::string> list(const std::string& directory) noexcept override;
  std::uint64_t room() noexcept override;
  int lock() noexcept override;

 private:
  int directory_ = -1;
  int lock_ = -1;
};

// All of it, or errno.
[[nodiscard]] int write_all(File& file, Bytes data, std::uint64_t at) noexcept;
// Exactly n bytes, or errno (ENODATA: the file is shorter).
[[nodiscard]] int read_exactly(File& file, void* data, std::size_t n, std::uint64_t at) noexcept;
// The whole of a small file; none if it is missing or larger.
[[nodiscard]] std::optional<std::string> read_small(Files& files, const std::string& name,
                                                    std::size_t most_bytes) noexcept;
// write -> fdatasync -> rename -> fsync(directory): afterwards it is the old or the new one, whatever happens.
[[nodiscard]] int replace_file(Files& files, const std::string& name,
                               const std::string& text) noexcept;

}  // namespace bulkhead::audit
