// What the node daemon takes while 64 tenants, a real process each, do nothing and while they allocate and free.
#include <filesystem>

#include "base/clock.h"
#include "bench/crew.h"
#include "bench/daemon.h"
#include "bench/suites.h"

namespace bulkhead::bench {
namespace {

constexpr unsigned kTenants = 64;
constexpr std::uint64_t kHeld = 64 * kMiB;
constexpr char kSight[] = "its metrics process";

struct Goal {
  const char* state;
  const char* text;
};
constexpr Goal kIdle{"64 idle tenants", "goal <= 0.5 %"};
constexpr Goal kBusy{"64 busy tenants", "goal <= 2 %"};

struct Reading {
  std::uint64_t at_ns, daemon_ns, sight_ns;
  double pairs;
};
Reading read(const Daemon& daemon, pid_t sight, Crew& crew) {
  Reading r{monotonic_ns(), cpu_ns_of(daemon.pid()), sight == 0 ? 0 : cpu_ns_of(sight), 0};
  for (unsigned i = 0; i < crew.size(); ++i) r.pairs += crew.block(i).value[0];
  return r;
}

// One window: shares of one core, memory at its end, and what the tenants did.
void window(Bench& b, const Daemon& daemon, Crew& crew, const Goal& goal) {
  const pid_t sight = daemon.sight();
  const Reading from = read(daemon, sight, crew);
  Crew::pause(b.lab.quick ? 3'000 : 10'000);
  const Reading to = read(daemon, sight, crew);
  const double ns = static_cast<double>(to.at_ns - from.at_ns);
  const auto share = [&](std::uint64_t before, std::uint64_t after) {
    return 100 * static_cast<double>(after - before) / ns;
  };
  const auto mib = [](pid_t pid) { return static_cast<double>(resident_bytes_of(pid)) / kMiB; };
  if (to.daemon_ns <= from.daemon_ns)
    return b.results.failed(goal.state, "bulkhead", "bulkheadd ended or used no CPU at all");
  b.results.add(goal.state, "CPU of one core", "%", "bulkheadd",
                share(from.daemon_ns, to.daemon_ns), goal.text);
  b.results.add(goal.state, "resident", "MiB", "bulkheadd", mib(daemon.pid()), "goal <= 30 MiB");
  if (sight != 0) {
    b.results.add(goal.state, "CPU of one core", "%", kSight, share(from.sight_ns, to.sight_ns));
    b.results.add(goal.state, "resident", "MiB", kSight, mib(sight));
  }
  b.results.add(goal.state, "pairs of all tenants", "1/s", "tenants",
                (to.pairs - from.pairs) / (ns / 1e9));
}

// The tenants' processes become idle, are looked at, become busy, are looked at; again and again.
void windows(Bench& b, const Daemon& daemon, Crew& crew) {
  bool good = crew.all_said(120);
  Crew::pause(2'000);  // the joins are behind the daemon
  for (unsigned repeat = 0; good && repeat < b.lab.repeats && !b.lab.late(); ++repeat) {
    window(b, daemon, crew, kIdle);
    crew.go();
    Crew::pause(1'000);
    window(b, daemon, crew, kBusy);
    crew.go();
    good = crew.all_said(120);
  }
  if (!good) b.results.failed(kBusy.state, "bulkhead", crew.error());
}

}  // namespace

void suite_daemon(Bench& b) {
  const Variant* ours = nullptr;
  for (const Variant& v : b.lab.variants)
    if (v.kind == Variant::Kind::kBulkhead) ours = &v;
  b.results.begin(0, "daemon");
  if (ours == nullptr) return;
  Lab lab = b.lab;  // a directory of its own: the daemon adopts whatever lies in the one it serves
  lab.scratch += "/node";
  std::filesystem::create_directories(lab.scratch + "/state");
  std::filesystem::permissions(lab.scratch, std::filesystem::perms::owner_all);
  std::vector<Tenant> tenants;
  // each has room for its context, what it holds and the pair
  for (unsigned i = 0; i < kTenants; ++i) tenants.push_back(lab.make_tenant(kGiB));
  {
    const Daemon daemon(lab, tenants);
    if (daemon.error().empty()) {
      Crew crew(lab, *ours, tenants[0], "env");
      Params p;
      p.set("held_bytes", kHeld);
      for (const Tenant& t : tenants) crew.start("steady", p, t);
      windows(b, daemon, crew);
    } else {
      b.results.failed(kIdle.state, "bulkhead", daemon.error());
    }
  }
  b.results.print(b.lab, stdout);
}

}  // namespace bulkhead::bench
