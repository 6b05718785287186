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

// Kernels of a worker done in [from, to): a batch counts evenly between the end before it and its own, so that a window is
// not off by a batch at either edge.
double done_in(const Block& k, std::uint64_t from, std::uint64_t to) {
  double sum = 0;
  for (std::uint64_t i = 1; i < k.log_count; ++i) {
    const std::uint64_t begin = std::max(k.log[i - 1].end, from), end = std::min(k.log[i].end, to);
    if (begin >= end) continue;
    sum += static_cast<double>(k.log[i].bytes) * static_cast<double>(end - begin) /
           static_cast<double>(k.log[i].end - k.log[i - 1].end);
  }
  return sum;
}
double rate(const Block& k, std::uint64_t from, std::uint64_t to) {
  return to <= from ? 0 : done_in(k, from, to) * 1e9 / static_cast<double>(to - from);
}
std::uint64_t first_end(const Block& k) { return k.log_count == 0 ? 0 : k.log[0].end; }
std::uint64_t last_end(const Block& k) { return k.log_count == 0 ? 0 : k.log[k.log_count - 1].end; }

// How a change at `at` was felt in windows of `window` ns until `until`, ms after `at`: when the first one begins that is
// near, when the last one that is not near ends its first step, and how many (%) of those that begin over 100 ms later are not: what this
// machine does to a share that nobody changes.
struct Felt {
  double reached_ms = 0, settled_ms = 0, later_off = 0;
};
template <class Near>
Felt felt(const Block& k, std::uint64_t at, std::uint64_t until, std::uint64_t window, Near near) {
  Felt out;
  std::uint64_t first = 0, last = at;
  unsigned later = 0, off = 0;
  for (std::uint64_t t = at; t + window <= until; t += kMs) {
    const bool good = near(rate(k, t, t + window));
    if (good && first == 0) first = t;
    if (!good) last = t + kMs;
    if (t > at + 100 * kMs) ++later, off += good ? 0 : 1;
  }
  out.reached_ms = static_cast<double>((first == 0 ? until : first) - at) / 1e6;
  out.settled_ms = static_cast<double>(last - at) / 1e6;
  out.later_off = later == 0 ? 0 : 100.0 * off / later;
  return out;
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

std::string change_name(const char* kernels) {
  return std::string(kernels) + " kernels, 25% -> 75% -> 25%";
}
std::string conserve_name(const char* kernels) {
  return std::string(kernels) + " kernels, 25%+ beside 75% that comes and goes";
}

// Row 9. 75 % in a window of 50 ms is 75 +- 5, 25 % is 25 +- 5, of what the same process did with all of the device just before.
void change(Bench& b, const Variant& v, const Load& l) {
  const std::string name = change_name(l.name);
  if (!b.lab.asked(name)) return;
  const std::uint64_t part_ms = b.lab.quick ? 1'000 : 3'000;
  Tenant t = b.lab.make_tenant(4 * kGiB);
  t.compute_percent = 100;
  {
    Crew crew(b.lab, v, t, "run");
    crew.start("load", load_of(l, 4 * part_ms));
    bool good = crew.all_said(60);
    if (good) crew.go();
    std::uint64_t at[3] = {};
    for (std::uint64_t& when : at) {
      Crew::pause(static_cast<int>(part_ms));
      good = good && set_share(b.lab, t, &when == at + 1 ? 75 : 25);
      when = monotonic_ns();
    }
    good = good && crew.all_said(static_cast<int>(4 * part_ms / 1000) + 60);
    if (!good) {
      b.results.failed(name, v.name, crew.error());
    } else {
      const Block& k = crew.block(0);
      const double solo = rate(k, first_end(k) + part_ms * kMs / 10, at[0]);
      const auto within = [solo](double share) {
        return [solo, share](double r) {
          return r > (share - 0.05) * solo && r < (share + 0.05) * solo;
        };
      };
      constexpr std::uint64_t kWindow = 50 * kMs;
      const Felt more = felt(k, at[1], at[2], kWindow, within(0.75)),
                 less = felt(k, at[2], last_end(k), kWindow, within(0.25));
      b.results.add(name, "settled after more", "ms", v.name, more.settled_ms, "goal <= 100 ms");
      b.results.add(name, "settled after less", "ms", v.name, less.settled_ms, "goal <= 100 ms");
      b.results.add(name, "reached after more", "ms", v.name, more.reached_ms);
      b.results.add(name, "reached after less", "ms", v.name, less.reached_ms);
      b.results.add(name, "of its rate at 100%, at 75%", "%", v.name,
                    100 * rate(k, at[1] + 100 * kMs, at[2]) / solo);
      b.results.add(name, "of its rate at 100%, at 25%", "%", v.name,
                    100 * rate(k, at[2] + 100 * kMs, last_end(k)) / solo);
      b.results.add(name, "at 100%", "/s", v.name, solo);
      b.results.add(name, "windows off later, at 75%", "%", v.name, more.later_off);
      b.results.add(name, "windows off later, at 25%", "%", v.name, less.later_off);
      crew.go();
      (void)crew.finish(60);
    }
  }
  b.lab.drop_tenant(t);
}

// Row 12. One that may borrow works all the while, its neighbour in the middle third.
void conserve(Bench& b, const Variant& v, const Load& l) {
  const std::string name = conserve_name(l.name);
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
  forget_promises(b.lab);
}

}  // namespace

bool changes_asked(const Bench& b, const char* kernels) {
  return b.lab.asked(change_name(kernels)) || b.lab.asked(conserve_name(kernels));
}

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
