// Row 6: races at the limit, and what a killed process leaves behind.
#include <algorithm>
#include <memory>
#include <random>

#include "bench/crew.h"
#include "bench/suites.h"

namespace bulkhead::bench {
namespace {

constexpr std::uint64_t kHeld = 6 * kGiB;

// ---- the race: what the logs of all calls prove ----
struct Change {
  std::uint64_t at;
  std::int64_t bytes;
};

struct Verdict {
  std::uint64_t calls = 0, granted = 0, refused = 0, surely_false = 0, overshoot_bytes = 0;
};

// Sum over time of changes; `sums[i]` holds after changes[i].
std::vector<std::int64_t> running(std::vector<Change>& changes) {
  std::sort(changes.begin(), changes.end(), [](const Change& a, const Change& b) {
    return a.at != b.at ? a.at < b.at : a.bytes < b.bytes;
  });
  std::vector<std::int64_t> sums;
  sums.reserve(changes.size());
  std::int64_t sum = 0;
  for (const Change& c : changes) sums.push_back(sum += c.bytes);
  return sums;
}

// Held at most: from a grant's begin to its free's end; held at least: from a grant's end to its free's begin.
// A refusal is surely false if even the first sum left room throughout the call; a limit is surely
// passed if the second sum exceeds it.
Verdict judge(Crew& crew, unsigned n, std::uint64_t room) {
  Verdict v;
  std::vector<Change> most, least;
  for (unsigned i = 0; i < n; ++i)
    for (std::uint64_t k = 0; k < crew.block(i).log_count; ++k) {
      const LogEntry& e = crew.block(i).log[k];
      const auto bytes = static_cast<std::int64_t>(e.bytes);
      ++v.calls;
      if (e.kind == LogEntry::kGranted)
        ++v.granted, most.push_back({e.begin, bytes}), least.push_back({e.end, bytes});
      if (e.kind == LogEntry::kFreed)
        most.push_back({e.end, -bytes}), least.push_back({e.begin, -bytes});
      if (e.kind == LogEntry::kRefused) ++v.refused;
    }
  const auto upper = running(most);
  for (const std::int64_t sum : running(least))
    if (sum > static_cast<std::int64_t>(room))
      v.overshoot_bytes = std::max(v.overshoot_bytes, static_cast<std::uint64_t>(sum) - room);
  for (unsigned i = 0; i < n; ++i)
    for (std::uint64_t k = 0; k < crew.block(i).log_count; ++k) {
      const LogEntry& e = crew.block(i).log[k];
      if (e.kind != LogEntry::kRefused) continue;
      auto at = std::upper_bound(most.begin(), most.end(), e.begin,
                                 [](std::uint64_t t, const Change& c) { return t < c.at; });
      std::int64_t held =
          at == most.begin() ? 0 : upper[static_cast<std::size_t>(at - most.begin() - 1)];
      for (; at != most.end() && at->at <= e.end; ++at)
        held = std::max(held, upper[static_cast<std::size_t>(at - most.begin())]);
      if (held + static_cast<std::int64_t>(e.bytes) <= static_cast<std::int64_t>(room))
        ++v.surely_false;
    }
  return v;
}

void race(Bench& b, const Variant& v, unsigned repeat) {
  constexpr unsigned kRacers = 8;
  const std::string name = "8 processes race at the limit";
  const Tenant t = b.lab.make_tenant(kQuota);
  {
    Crew crew(b.lab, v, t, "");
    Params p;
    p.set("seed", repeat + 1);
    p.set("ms", b.lab.quick ? 500 : 2000);
    std::uint64_t most = 0;
    auto look = [&] { most = std::max(most, b.outside.used_by(crew.pids())); };
    for (unsigned i = 0; i < kRacers; ++i) crew.start("race", p);
    bool good = crew.all_said(120, 10, look);                  // contexts made
    if (good) crew.go(), good = crew.all_said(60, 10, look);   // ready
    if (good) crew.go(), good = crew.all_said(120, 10, look);  // raced
    if (good) crew.go(), good = crew.all_said(60, 10, look);   // looked at what is free
    if (!good) {
      b.results.failed(name, v.name, crew.error());
    } else {
      std::uint64_t room = ~0ull;
      for (unsigned i = 0; i < kRacers; ++i)
        room = std::min(room, static_cast<std::uint64_t>(crew.block(i).value[0]));
      const Verdict verdict = judge(crew, kRacers, room);
      b.results.add(name, "calls", "", v.name, static_cast<double>(verdict.calls));
      b.results.add(name, "refused", "", v.name, static_cast<double>(verdict.refused));
      b.results.add(name, "surely false refusals", "", v.name,
                    static_cast<double>(verdict.surely_false));
      b.results.add(name, "overshoot by the logs", "B", v.name,
                    static_cast<double>(verdict.overshoot_bytes));
      // Seen nothing is no proof of no overshoot.
      if (most == 0)
        b.results.failed(name + ", seen by NVML", v.name,
                         "NVML showed none of the tenant's processes");
      else
        b.results.add(name, "overshoot seen by NVML", "B", v.name,
                      most > t.quota_bytes ? static_cast<double>(most - t.quota_bytes) : 0);
    }
  }
  b.lab.drop_tenant(t);
}

// ---- kills ----

// What one fresh process gets in all, with nobody else in the tenant. 0: failed.
std::uint64_t alone(Bench& b, const Variant& v, const Tenant& t) {
  Crew crew(b.lab, v, t);
  Params p;
  p.set("bytes", 0);
  const unsigned me = crew.start("take", p);
  if (!crew.said(me, 60)) return 0;
  crew.go(me);
  return crew.said(me, 60) ? static_cast<std::uint64_t>(crew.block(me).value[2]) : 0;
}

void killed_holder(Bench& b, const Variant& v) {
  const std::string name = "SIGKILL of a 6 GiB holder";
  const Tenant fresh = b.lab.make_tenant(kQuota), t = b.lab.make_tenant(kQuota);
  const std::uint64_t all = alone(b, v, fresh);
  {
    Crew crew(b.lab, v, t);
    Params holder, taker;
    holder.set("bytes", kHeld);
    taker.set("bytes", kHeld);
    const unsigned h = crew.start("hold", holder);
    const unsigned k = crew.start("take", taker);
    if (!crew.said(h, 60) || !crew.said(k, 60)) {
      b.results.failed(name, v.name, crew.error());
    } else {
      const std::uint64_t dead_ns = crew.kill_timed(h);
      crew.go(k);
      if (!crew.said(k, 60)) {
        b.results.failed(name, v.name, crew.error());
      } else {
        const double got = crew.block(k).value[2];
        b.results.add(name, "death to reuse", "ms", v.name,
                      (crew.block(k).value[0] - static_cast<double>(dead_ns)) / 1e6,
                      got == 0 ? "not within 8 s" : "");
        b.results.add(name, "leaked", "B", v.name, static_cast<double>(all) - got);
      }
    }
  }
  b.lab.drop_tenant(fresh);
  b.lab.drop_tenant(t);
}

// Four processes take and give back at random; each kill takes one of them, and a new one comes.
void storm(Bench& b, const Variant& v) {
  const unsigned kills = b.lab.quick ? 20 : b.lab.sim.empty() ? 100 : 1000;
  const std::string name = std::to_string(kills) + " random SIGKILLs";
  constexpr std::uint64_t kSeed = 7;
  std::mt19937_64 random(kSeed);
  const Tenant fresh = b.lab.make_tenant(kQuota), t = b.lab.make_tenant(kQuota);
  const std::uint64_t all = alone(b, v, fresh);
  std::string error;
  for (unsigned done = 0; done < kills && error.empty();) {
    Crew crew(b.lab, v, t);
    Params p;
    p.set("seed", kSeed + done);
    const unsigned together = std::min(4u, kills - done);
    for (unsigned i = 0; i < together; ++i) crew.start("churn", p);
    if (!crew.all_said(120)) error = crew.error();
    for (unsigned i = 0; i < together && error.empty(); ++i, ++done) {
      Crew::pause(static_cast<int>(random() % 10));
      crew.kill(i);
    }
  }
  if (error.empty()) {
    const std::uint64_t after = alone(b, v, t);
    b.results.add(name, "leaked", "B", v.name,
                  static_cast<double>(all) - static_cast<double>(after),
                  "seed " + std::to_string(kSeed));
  } else {
    b.results.failed(name, v.name, error);
  }
  b.lab.drop_tenant(fresh);
  b.lab.drop_tenant(t);
}

}  // namespace

void suite_crash(Bench& b) {
  b.results.begin(6, "crash");
  const unsigned repeats = b.lab.quick ? 2 : b.lab.repeats;
  for (unsigned repeat = 0; repeat < repeats && !b.lab.late(); ++repeat)
    for (const Variant& v : b.lab.variants) {
      if (v.kind == Variant::Kind::kNative) continue;
      race(b, v, repeat);
      killed_holder(b, v);
    }
  for (const Variant& v : b.lab.variants)
    if (v.kind != Variant::Kind::kNative && !b.lab.late()) storm(b, v);
  b.results.print(b.lab, stdout);
}

}  // namespace bulkhead::bench
