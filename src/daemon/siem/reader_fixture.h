// For tests: a log of random transfers, and a receiver that adds up what is read of it.
#pragma once
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "audit/forger.h"
#include "audit/log_fixture.h"
#include "daemon/siem/reader.h"

namespace bulkhead::daemon::siem {

using abi::AuditEntry;
using abi::Decision;
using abi::Direction;
using abi::EntryKind;
using audit::test::kSecond;
using audit::test::TestLog;
using Json = nlohmann::json;

// Whose, which way, which device and grant: count and bytes.
using Flow = std::tuple<std::string, std::string, std::string, std::string, std::int64_t>;
struct Total {
  std::uint64_t count = 0, bytes = 0;
  bool operator==(const Total&) const = default;
};
using Totals = std::map<Flow, Total>;

struct Made {
  Totals totals;
  std::map<std::string, std::uint64_t> singles;  // by MSGID
};

inline AuditEntry entry(std::mt19937_64& random, EntryKind kind, std::uint32_t session,
                        std::uint64_t sequence, std::uint64_t utc_ns) {
  AuditEntry e{};
  e.version_kind = abi::version_kind(kind);
  e.operation = static_cast<std::uint8_t>(1 + random() % 5);
  const auto direction = static_cast<Direction>(1 + random() % 7);
  const auto decision = static_cast<Decision>(random() % 20 == 0 ? 1 + random() % 3 : 0);
  e.direction_decision_flags = abi::pack_verdict(direction, decision, 0);
  e.reason = decision == Decision::kDenied ? 2 : 0;
  e.session = session;
  e.grant = static_cast<std::uint32_t>(random() % 3);
  abi::set_sequence(e, sequence);
  e.utc_ns = utc_ns;
  e.source_device = random() % 2 == 0 ? abi::kHostDevice : std::uint8_t{0};
  e.destination_device = random() % 2 == 0 ? std::uint8_t{1} : std::uint8_t{0};
  abi::set_bytes(e, random() % 100'000);
  return e;
}

inline const char* const kDirections[] = {"none", "h2d", "d2h", "d2d",
                                          "p2p",  "set", "h2h", "unknown"};

// A log of random transfers, records and exceptions over `seconds`, and what a receiver must add up from it.
inline Made write(TestLog& log, unsigned seed, unsigned seconds, unsigned a_second) {
  std::mt19937_64 random{seed};
  Made made;
  std::uint64_t sequence = 0;
  const auto record = [&](const std::string& json) { ASSERT_TRUE(log.writer->record(json).ok()); };
  record(
      R"({"devices":["GPU-a","GPU-b"],"exe":"/opt/engine","mode":"enforce","pid":42,"record":"session","serial":1,"start_ticks":1,"tenant":"trade","uid":1000,"utc":1800000000000000000})");
  record(
      R"({"devices":["GPU-b","GPU-a"],"exe":"/opt/two","mode":"observe","pid":43,"record":"session","serial":2,"start_ticks":1,"tenant":"risk","uid":1001,"utc":1800000000000000000})");
  record(audit::test::grant_json(1, 1800000000, 1900000000));
  made.singles["SESSION"] = 2;
  made.singles["GRANT"] = 1;
  made.singles["LOG"] = 1;  // boot
  for (unsigned s = 0; s < seconds; ++s) {
    std::vector<AuditEntry> batch;
    for (unsigned i = 0; i < a_second; ++i) {
      const auto which = random() % 100;
      const EntryKind kind = which < 90   ? EntryKind::kTransfer
                             : which < 93 ? EntryKind::kGeometry
                             : which < 96 ? EntryKind::kMap
                             : which < 98 ? EntryKind::kFailure
                             : which < 99 ? EntryKind::kMark
                                          : EntryKind::kGap;
      const auto session = static_cast<std::uint32_t>(1 + random() % 2);
      const AuditEntry e = entry(random, kind, session, sequence++, log.now);
      batch.push_back(e);
      const bool plain =
          abi::decision_of(e) == Decision::kAllowed || abi::decision_of(e) == Decision::kObserved;
      if (kind == EntryKind::kTransfer) {
        const std::vector<std::string> devices = session == 1
                                                     ? std::vector<std::string>{"GPU-a", "GPU-b"}
                                                     : std::vector<std::string>{"GPU-b", "GPU-a"};
        Total& t = made.totals[{
            session == 1 ? "trade" : "risk", kDirections[static_cast<int>(abi::direction_of(e))],
            e.source_device == abi::kHostDevice ? "host" : devices[e.source_device],
            devices[e.destination_device], e.grant}];
        ++t.count;
        t.bytes += abi::bytes_of(e);
        if (!plain) ++made.singles["DENY"];
      } else if (kind == EntryKind::kMap) {
        ++made.singles[plain ? "MAP" : "DENY"];
      } else if (kind == EntryKind::kFailure) {
        ++made.singles["FAIL"];
      } else if (kind == EntryKind::kGap) {
        ++made.singles["GAP"];
      }
      if (batch.size() == 100) {
        EXPECT_TRUE(log.writer->entries(batch).ok());
        batch.clear();
      }
    }
    EXPECT_TRUE(log.writer->entries(batch).ok());
    EXPECT_TRUE(log.writer->sync().ok());
    if (random() % 2 == 0) {
      EXPECT_TRUE(log.writer->tick().ok());
    }
    log.now += kSecond;
  }
  EXPECT_TRUE(log.writer->finish().ok());
  return made;
}

// A receiver: drops what it has, adds up the rest.
struct Receiver {
  std::map<std::string, std::string> seen;  // by uid
  Made made;
  void take(const Event& e) {
    ASSERT_LE(e.json.size(), kMostMessage);
    const auto [it, fresh] = seen.emplace(e.uid, e.json);
    if (!fresh) {
      EXPECT_TRUE(it->second == e.json) << "one uid, two events: " << e.uid;
      return;
    }
    const Json j = Json::parse(e.json);
    ASSERT_EQ(j["metadata"]["uid"], e.uid);
    const std::string id = e.msgid;
    if (id != "DMA") ++made.singles[id];
    if (id != "DMA" && (id != "DENY" || j["activity_id"] == 9)) return;
    const Json& u = j["unmapped"];
    Total& t = made.totals[{j["metadata"].value("tenant_uid", ""), u["direction"], u["source"],
                            u["destination"], u["grant"]}];
    t.count += j["count"].get<std::uint64_t>();
    t.bytes += j["size"].get<std::uint64_t>();
  }
};

struct Bench {
  TestLog log;
  std::unique_ptr<audit::PosixFiles> files;
  Bench() {
    log.options.segment_bytes = 40'000;
    EXPECT_EQ(log.open(), "");
    files = std::make_unique<audit::PosixFiles>(log.directory);
  }
  // All windows from `from`; positions behind each.
  std::vector<Position> read(const std::optional<Position>& from, Receiver& to,
                             std::size_t most = ~0ull) {
    Reader reader{*files, "host", "0.1.0"};
    EXPECT_TRUE(reader.start(from)) << reader.problem();
    std::vector<Position> out;
    std::vector<Event> events;
    for (Position behind; out.size() < most && reader.next(events, behind);) {
      for (const Event& e : events) to.take(e);
      out.push_back(behind);
    }
    EXPECT_EQ(reader.problem(), "");
    return out;
  }
};

inline std::vector<std::string> findings(const Receiver& r) {
  std::vector<std::string> out;
  for (const auto& [uid, json] : r.seen) {
    const Json j = Json::parse(json);
    if (j["class_uid"] != 2004 || j["finding_info"]["title"] == "gap in the audit log") continue;
    EXPECT_EQ(j["severity_id"], 5);
    const std::string title = j["finding_info"]["title"];
    out.push_back(title.substr(title.rfind(' ') + 1));
  }
  return out;
}

}  // namespace bulkhead::daemon::siem
