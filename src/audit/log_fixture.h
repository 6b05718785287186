// For tests: a log in a directory of its own, with a clock that stands until it is moved.
#pragma once
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "audit/writer.h"

namespace bulkhead::audit::test {

class ManualClock final : public WallClock {
 public:
  // `set_by`: by how much the wall clock was set since; null: never.
  explicit ManualClock(std::uint64_t* now, const std::int64_t* set_by = nullptr)
      : now_(now), set_by_(set_by) {}
  std::uint64_t utc_ns() noexcept override {
    return set_by_ == nullptr ? *now_ : *now_ + static_cast<std::uint64_t>(*set_by_);
  }
  std::uint64_t steady_ns() noexcept override { return *now_; }

 private:
  std::uint64_t* now_;
  const std::int64_t* set_by_;
};

inline constexpr std::uint64_t kSecond = 1'000'000'000, kStart = 1'800'000'000 * kSecond;

inline abi::AuditEntry transfer(std::uint32_t session, std::uint16_t lane, std::uint64_t sequence,
                                std::uint64_t utc_ns, std::uint32_t grant = 0) {
  abi::AuditEntry e{};
  e.version_kind = abi::version_kind(abi::EntryKind::kTransfer);
  e.operation = static_cast<std::uint8_t>(1);
  e.direction_decision_flags =
      abi::pack_verdict(abi::Direction::kHostToDevice,
                        grant == 0 ? abi::Decision::kObserved : abi::Decision::kAllowed, 0);
  e.session = session;
  e.lane = lane;
  e.grant = grant;
  abi::set_sequence(e, sequence);
  e.utc_ns = utc_ns;
  e.source = 0x7f0000000000 + sequence * 4096;
  e.destination = 0x700000000000;
  abi::set_bytes(e, 4096);
  e.source_device = abi::kHostDevice;
  e.destination_device = 0;
  return e;
}

inline std::string session_json(std::uint32_t serial, std::uint64_t utc_ns,
                                const std::string& mode = "observe") {
  return "{\"devices\":[\"GPU-0\"],\"mode\":\"" + mode +
         "\",\"record\":\"session\",\"serial\":" + std::to_string(serial) +
         ",\"tenant\":\"trade\",\"utc\":" + std::to_string(utc_ns) + "}";
}
inline std::string end_json(std::uint32_t serial, std::uint64_t next) {
  return "{\"lanes\":[{\"lane\":0,\"next\":" + std::to_string(next) +
         "}],\"record\":\"session_end\",\"serial\":" + std::to_string(serial) + "}";
}
inline std::string grant_json(std::uint32_t serial, std::uint64_t from_s, std::uint64_t to_s,
                              std::uint64_t bytes = 0, const std::string& tenant = "trade",
                              const std::string& directions = "\"d2h\",\"h2d\"",
                              const std::string& devices = "\"GPU-0\"") {
  return "{\"bytes\":" + std::to_string(bytes) + ",\"devices\":[" + devices + "],\"directions\":[" +
         directions + "],\"exp\":" + std::to_string(to_s) +
         ",\"jwt\":\"a.b.c\",\"nbf\":" + std::to_string(from_s) +
         ",\"record\":\"grant\",\"serial\":" + std::to_string(serial) + ",\"session_tenant\":\"" +
         tenant + "\",\"sub\":\"spiffe://firm/trade\"}";
}

struct TestLog {
  std::string directory;
  std::uint64_t now = kStart;
  std::int64_t set_by = 0;
  [[nodiscard]] std::uint64_t utc() const { return now + static_cast<std::uint64_t>(set_by); }
  WriterOptions options;
  std::unique_ptr<Writer> writer;

  TestLog() {
    char name[] = "/tmp/bh-log-XXXXXX";
    directory = ::mkdtemp(name);
    options.origin = "test/bulkhead";
    options.boot_id = "boot-1";
  }
  TestLog(const TestLog&) = delete;
  TestLog& operator=(const TestLog&) = delete;
  ~TestLog() {
    writer.reset();
    std::filesystem::remove_all(directory);
  }
  // "" or why it did not start.
  std::string open() {
    writer.reset();
    auto opened = Writer::open(std::make_unique<PosixFiles>(directory),
                               std::make_unique<ManualClock>(&now, &set_by), options);
    if (!opened.ok()) return opened.problem;
    writer = std::move(*opened);
    return {};
  }
  void append(std::uint32_t session, std::uint16_t lane, std::uint64_t from, std::size_t count,
              std::uint32_t grant = 0) {
    std::vector<abi::AuditEntry> batch;
    for (std::size_t i = 0; i < count; ++i)
      batch.push_back(transfer(session, lane, from + i, utc(), grant));
    ASSERT_TRUE(writer->entries(batch).ok());
  }
  // The epoch ends, with its seal.
  void next_epoch() {
    now += options.epoch_s * kSecond;
    ASSERT_TRUE(writer->finish().ok());
  }
};

}  // namespace bulkhead::audit::test
