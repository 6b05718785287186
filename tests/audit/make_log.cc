// Writes a log for the tests of other programs: make_log DIR EPOCHS ENTRIES_AN_EPOCH [damage]. `damage` flips one byte of
// one entry and makes journal and tree fit again.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "audit/forger.h"

using namespace bulkhead::audit;
using namespace bulkhead::audit::test;

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  TestLog log;
  std::filesystem::remove_all(log.directory);
  log.directory = argv[1];
  std::filesystem::create_directories(log.directory);
  const int epochs = std::atoi(argv[2]);
  const auto each = static_cast<std::size_t>(std::atoi(argv[3]));
  if (const std::string problem = log.open(); !problem.empty()) {
    std::fprintf(stderr, "%s\n", problem.c_str());
    return 1;
  }
  bool good = log.writer->record(session_json(1, log.now)).ok();
  good &= log.writer->record(grant_json(1, log.now / kSecond, log.now / kSecond + 86400)).ok();
  std::uint64_t n = 0;
  for (int i = 0; good && i < epochs; ++i, n += each) {
    std::vector<bulkhead::abi::AuditEntry> batch;
    for (std::size_t k = 0; k < each; ++k) batch.push_back(transfer(1, 0, n + k, log.now, 1));
    good = log.writer->entries(batch).ok() && log.writer->finish().ok();
    log.now += log.options.epoch_s * kSecond;
    good = good && log.writer->finish().ok();
  }
  log.writer.reset();
  if (argc > 4) {
    const Forger forger{log.directory};
    forger.change([](Leaves& l) { l[l.size() / 2][30] ^= 4; });
  }
  log.directory.clear();  // what was made stays
  return good ? 0 : 1;
}
