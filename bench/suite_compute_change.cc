// Rows 9 and 12 of compute: how soon a changed share is felt, whether idle time is used and how soon it is given back. Both with
// a bulkheadd of the bench's own, on kernels of one length.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>

#include "base/clock.h"
#include "bench/crew.h"
#include "bench/daemon.h"
#include "bench/suites.h"
#include "shm/compute.h"
#include "shm/dir.h"
#include "shm/tenant.h"

namespace bulkhead::bench {
namespace {

constexpr std::uint64_t kMs = 1'000'000;

// Kernels of a worker that ended in [from, to).
double done_in(const Block& k, std::uint64_t from, std::uint64_t to) {
  double sum = 0;
  for (std::uint64_t i = 0; i < k.log_count; ++i)
    if (k.log[i].end >= from && k.log[i].end < to) sum += static_cast<double>(k.log[i].bytes);
  return sum;
}
double rate(const Block& k, std::uint64_t from, std::uint64_t to) {
  return to <= from ? 0 : done_in(k, from, to) * 1e9 / static_cast<double>(to - from);
}
std::uint64_t first_end(const Block& k) { return k.log_count == 0 ? 0 : k.log[0].end; }
std::uint64_t last_end(const Block& k) { return k.log_count == 0 ? 0 : k.log[k.log_count - 1].end; }

// From `at` on, when the last window of `window` ns ends in which the rate is not within `near` (it may be a row's
// worth off: a window holds few rows), ms after `at`.
template <class Near>
double settled_ms(const Block& k, std::uint64_t at, std::uint64_t until, std::uint64_t window,
                  Near near) {
  std::uint64_t last = at;
  for (std::uint64_t t = at; t + window <= until; t += 5 * kMs)
    if (!near(rate(k, t, t + window))) last = t + 5 * kMs;
  return static_cast<double>(last - at) / 1e6;
}

// When the first such window ends in which the rate is near, ms after `at`.
template <class Near>
double reached_ms(const Block& k, std::uint64_t at, std::uint64_t until, std::uint64_t window,
                  Near near) {
  std::uint64_t t = at;
  while (t + window <= until && !near(rate(k, t, t + window))) t += kMs;
  return static_cast<double>(t - at) / 1e6;
}

Params load_of(const Load& l, std::uint64_t ms) {
  Params p;
  p.set("rounds", l.rounds);
  p.set("ns", l.ns);
  p.set("ms", ms);
  return p;
}

// As `bulkhead set` does where no daemon is.
bool set_share(const Lab& lab, const Tenant& t, unsigned percent) {
  shm::DirOptions o;
  o.asked = lab.scratch.c_str();
  o.euid = ::geteuid();
  o.simulated = true;
  auto dir = shm::open_dir(o);
  if (!dir.ok()) return false;
  auto tenant = shm::attach_tenant(*dir, t.name.c_str());
  if (!tenant.ok()) return false;
  shm::ComputeRules rules = shm::region_compute(tenant->region(), 0);
  rules.floor_x100 = rules.ceiling_x100 = percent * 100;
  shm::set_compute(tenant->region(), 0, rules);
  return true;
}

// Row 9. 75 % in a window of 100 ms is 75 +- 5, 25 % is 25 +- 5.
void change(Bench& b, const Variant& v, const Load& l) {
  const std::string name = std::string(l.name) + " kernels, 25% -> 75% -> 25%";
  if (!b.lab.asked(name)) return;
  const std::uint64_t part_ms = b.lab.quick ? 1'000 : 3'000;
  Tenant t = b.lab.make_tenant(4 * kGiB);
  t.compute_percent = 25;
  {
    Crew crew(b.lab, v, t, "run");
    crew.start("load", load_of(l, 3 * part_ms));
    bool good = crew.all_said(60);
    if (good) crew.go();
    std::uint64_t at[2] = {};
    for (std::uint64_t& when : at) {
      Crew::pause(static_cast<int>(part_ms));
      good = good && set_share(b.lab, t, &when == at ? 75 : 25);
      when = monotonic_ns();
    }
    good = good && crew.all_said(static_cast<int>(3 * part_ms / 1000) + 60);
    if (!good) {
      b.results.failed(name, v.name, crew.error());
    } else {
      const Block& k = crew.block(0);
      const auto within = [&l](double share) {
        return [&l, share](double r) {
          return r > (share - 0.05) * l.solo && r < (share + 0.05) * l.solo;
        };
      };
      constexpr std::uint64_t kWindow = 100 * kMs;
      b.results.add(name, "settled after more", "ms", v.name,
                    settled_ms(k, at[0], at[1], kWindow, within(0.75)), "goal <= 100 ms");
      b.results.add(name, "settled after less", "ms", v.name,
                    settled_ms(k, at[1], last_end(k), kWindow, within(0.25)), "goal <= 100 ms");
      crew.go();
      (void)crew.finish(60);
    }
  }
  b.lab.drop_tenant(t);
}

// Row 12. One that may borrow works all the while, its neighbour in the middle third.
void conserve(Bench& b, const Variant& v, const Load& l) {
  const std::string name = std::string(l.name) + " kernels, 25%+ beside 75% that comes and goes";
  if (!b.lab.asked(name)) return;
  const std::uint64_t part_ms = b.lab.quick ? 2'000 : 4'000;
  Tenant mine = b.lab.make_tenant(4 * kGiB), other = b.lab.make_tenant(4 * kGiB);
  mine.compute_percent = 25, mine.compute_borrows = true, other.compute_percent = 75;
  {
    const auto daemon = std::make_unique<Daemon>(b.lab, std::vector<Tenant>{});
    if (!daemon->error().empty()) return b.results.failed(name, v.name, daemon->error());
    Crew crew(b.lab, v, mine, "run");
    crew.start("load", load_of(l, 3 * part_ms));
    crew.start("load", load_of(l, part_ms), other);
    bool good = crew.all_said(60);
    if (good) crew.go(0), Crew::pause(static_cast<int>(part_ms)), crew.go(1);
    good = good && crew.all_said(static_cast<int>(3 * part_ms / 1000) + 60);
    if (!good) {
      b.results.failed(name, v.name, crew.error());
    } else {
      const Block &a = crew.block(0), &o = crew.block(1);
      const std::uint64_t come = first_end(o), go = last_end(o), tenth = part_ms * kMs / 10;
      b.results.add(name, "of the idle time used", "%", v.name,
                    100 * rate(a, first_end(a) + tenth, come - tenth) / l.solo, "goal >= 97 %");
      b.results.add(name, "given back", "ms", v.name,
                    reached_ms(a, come, go, 20 * kMs, [&l](double r) { return r < 0.5 * l.solo; }),
                    "goal <= 20 ms");
      const double mine_s = rate(a, come + tenth, go - tenth),
                   other_s = rate(o, come + tenth, go - tenth);
      b.results.add(name, "part of the owner of 75%", "%", v.name,
                    100 * other_s / (mine_s + other_s));
      b.results.add(name, "lent again", "%", v.name,
                    100 * rate(a, go + tenth, last_end(a)) / l.solo);
      crew.go();
      (void)crew.finish(60);
    }
  }
  b.lab.drop_tenant(mine);
  b.lab.drop_tenant(other);
  // What this daemon promised the next one would keep.
  std::error_code ignored;
  std::filesystem::remove_all(b.lab.scratch + "/state", ignored);
  std::filesystem::remove(b.lab.scratch + "/tenants.json", ignored);
}

}  // namespace

void compute_changes(Bench& b, const std::vector<Load>& loads) {
  b.results.begin(9, "compute: a share that changes");
  for (unsigned repeat = 0; repeat < (b.lab.quick ? 1 : b.lab.repeats) && !b.lab.late(); ++repeat)
    for (const Load& l : loads)
      for (const Variant& v : b.lab.variants)
        if (v.kind == Variant::Kind::kBulkhead && l.solo != 0) change(b, v, l);
  b.results.print(b.lab, stdout);
  b.results.begin(12, "compute: idle time");
  for (unsigned repeat = 0; repeat < (b.lab.quick ? 1 : b.lab.repeats) && !b.lab.late(); ++repeat)
    for (const Load& l : loads)
      for (const Variant& v : b.lab.variants)
        if (v.kind == Variant::Kind::kBulkhead && l.solo != 0) conserve(b, v, l);
  b.results.print(b.lab, stdout);
}

}  // namespace bulkhead::bench
