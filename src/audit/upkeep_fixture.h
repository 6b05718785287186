// For tests: a log of small segments, and its upkeep by hand.
#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "audit/forger.h"
#include "audit/upkeep.h"
#include "audit/verify.h"

namespace bulkhead::audit::test {

struct Kept {
  TestLog log;
  std::uint64_t sequence = 0;
  std::vector<std::string> told;

  Kept() {
    log.options.segment_bytes = 64u << 10;
    EXPECT_EQ(log.open(), "");
    EXPECT_TRUE(log.writer->record(session_json(1, log.now)).ok());
  }
  void grow(std::size_t n) {
    for (const std::size_t end = sequence + n;
         sequence < end;) {  // as the daemon does: a few at a time
      const std::size_t some = std::min<std::size_t>(250, end - sequence);
      log.append(1, 0, sequence, some);
      sequence += some;
    }
    EXPECT_TRUE(log.writer->finish().ok());
  }
  std::unique_ptr<Upkeep> upkeep(UpkeepRules rules, std::unique_ptr<Files> files = nullptr) {
    return std::make_unique<Upkeep>(
        *log.writer, log.directory, log.writer->origin(), rules,
        [this](bool, const std::string& text) { told.push_back(text); }, std::move(files));
  }
  [[nodiscard]] std::size_t count(const char* ending) const {
    std::size_t n = 0;
    for (const auto& file : std::filesystem::directory_iterator(log.directory + "/segment"))
      n += file.path().extension() == ending;
    return n;
  }
  [[nodiscard]] std::string verify() const {
    VerifyOptions options;
    options.policy = *parse_policy(slurp(log.directory + "/host.pub"));
    PosixFiles files{log.directory};
    const VerifyReport r = verify_log(files, options);
    return r.exit_code() == 0   ? ""
           : r.findings.empty() ? "not checked: " + r.could_not
                                : finding_text(r.findings[0]);
  }
};

}  // namespace bulkhead::audit::test
