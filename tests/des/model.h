// Tenants of one simulated GPU, each with the library's policy before its launches, and the daemon's governor. The policy
// is the product's own (src/policy/compute); what the library would do around it (events, words of the region, the
// compute thread's millisecond) is played here, in virtual time.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <queue>
#include <random>
#include <string>
#include <vector>

#include "policy/compute/bucket.h"
#include "policy/compute/governor.h"
#include "policy/compute/hold.h"
#include "policy/compute/meter.h"
#include "policy/compute/rates.h"
#include "policy/compute/segments.h"
#include "policy/compute/vclock.h"
#include "tests/des/device.h"

namespace bulkhead::des {

namespace pc = policy::compute;
inline constexpr Ns kUs = 1'000, kMs = 1'000'000, kSec = 1'000'000'000;

struct Step {
  enum Kind { kLaunch, kSync, kThink, kUntil, kEnd } kind = kEnd;
  Ns ns = 0;  // cost of the kernel; time to think; instant
  std::uint64_t key = 1;
  std::size_t stream = 0;
  double occupancy = 1;
  bool dependent =
      false;  // programmatic: begins while its predecessor ends, unless an event stands between
};
using Rng = std::mt19937_64;
using Program = std::function<Step(Ns now, Rng& rng)>;

struct Limit {
  bool limited = true;
  std::uint32_t floor_x100 = 10'000;
  std::uint32_t ceiling_x100 = 10'000;
  std::uint32_t dampening_x1000 = 1'000;
  Ns burst_ns = 5 * kMs;
  Ns window_ns = 4 * kMs;
};
inline Limit hard(double percent) {
  const auto x = static_cast<std::uint32_t>(percent * 100);
  return {true, x, x};
}
inline Limit soft(double percent) {
  return {true, static_cast<std::uint32_t>(percent * 100), 10'000};
}

struct TenantSpec {
  Limit limit;
  std::function<Program(std::size_t process)> program;
  std::size_t processes = 1;
  std::size_t streams = 1;
  Ns arrives_ns = 0;
  Ns launch_ns = 2'500;  // what a launch takes the host
  std::size_t depth =
      1021;  // launches of a stream that may be queued: the driver's, or what the program allows itself
};

// What is wrong on purpose.
enum Broken : unsigned {
  kSound = 0,
  kElapsedCharge = 1,   // elapsed time is charged, foreign slices and all
  kNoSettle = 2,        // the prediction stays, and it is the prior
  kPerLaunch = 4,       // 100 us a launch, whatever it is
  kNoClamp = 8,         // debt without a bound
  kHoard = 16,          // an idle tenant's credit grows without a bound
  kNoKappa = 32,        // switching is nobody's
  kForgetfulRate = 64,  // a new rate leaves the word as it is
  kOnlySharedPays =
      256,  // kappa is paid for what ran while the other had work, and not between its turns
  kBlindToDependents =
      128,  // they are in a segment only by chance, and none of theirs ever ends in time
};

struct Options {
  unsigned broken = kSound;
  bool governor = true;
  std::uint64_t seed = 1;
  Ns sleep_late_ns = 55 * kUs;       // how late a sleeper wakes
  Ns told_slice_ns = pc::kSlice_ns;  // what the policy takes the device's slice for
  std::uint32_t told_loss_x1000 = pc::kSwitchLoss_x1000;
};

struct Tenant;
struct Process;

struct Record {  // a segment between its events
  pc::Segment segment{};
  Process* process = nullptr;
  std::size_t stream = 0;
  Ns start = 0, end = 0;
  Ns window_ns = 0;
  bool closed = false, drained = false;
  Record* next = nullptr;  // starts where this one ends
};

struct StreamState {
  pc::StreamCut cut;
  pc::Row row;
  Record* open = nullptr;
  Record* last = nullptr;  // closed, its end not reached
  Ns last_end = 0;
  Ns queued_until = 0;  // by the host's clock and the predictions
  Ns rest_since = 0;    // a launch waits for the stream to come to rest since then
};

struct Process {
  Tenant* tenant = nullptr;
  std::size_t context = 0;
  Program program;
  Rng rng;
  std::unique_ptr<pc::CostTable> costs = std::make_unique<pc::CostTable>();
  std::vector<StreamState> streams;
  std::deque<std::unique_ptr<Record>> records;
  pc::Cover cover;
  pc::VHistory history;
  Step step;
  bool has_step = false, ended = false, syncing = false, full = false;
  Ns held_since = 0, idle_since = 0;
  std::uint32_t hold_steps = 0, wake = 0;
  Ns in_flight_ns = 0;
  Ns empty_ns = 0;  // nothing queued
  pc::ProcessState seen;
  bool with_long = false, had_work = false;  // since the governor's last look
  bool ticking = false;
};

struct Tenant {
  TenantSpec spec;
  Limit limit;
  std::vector<std::unique_ptr<Process>> processes;
  pc::Bucket tat{0};
  pc::Rules rules{};
  // Sums, as in the region.
  double charged_ns = 0, forgiven_ns = 0, held_ns = 0;
  std::uint64_t raw_ns = 0, short_ns = 0, shared_raw_ns = 0, launches = 0;
  Ns wanted_at = 0, held_at = 0, longest_hold_ns = 0, longest_wait_ns = 0;
  std::uint32_t given_x100 = 0;      // the governor's word
  pc::TenantState seen;              // the governor's memory
  std::vector<double> useful_at_ms;  // kernel time done at the end of each millisecond
  [[nodiscard]] double useful(Ns from, Ns to) const {
    return useful_at_ms[to / kMs] - useful_at_ms[from / kMs];
  }
  [[nodiscard]] double share(Ns from, Ns to) const {
    return useful(from, to) / static_cast<double>(to - from);
  }
};

class Machine : public Watcher {
 public:
  explicit Machine(Options options = {}) : options_(options) {}
  Tenant& add(const TenantSpec& spec);
  void at(Ns when, std::function<void()> action);
  // A new limit, as the governor writes it: held threads are woken.
  void set(Tenant& tenant, const Limit& limit);
  void run(Ns until);

  Device device;
  std::vector<std::unique_ptr<Tenant>> tenants;
  std::uint32_t kappa = pc::kKappaOne;
  Ns now = 0;
  std::uint64_t parted =
      0;  // pairs of a launch and its dependent that an event kept from overlapping

 private:
  struct Event {
    Ns at;
    std::uint64_t order;
    int kind;
    std::size_t index;
    std::uint32_t wake;
    bool operator>(const Event& o) const { return at != o.at ? at > o.at : order > o.order; }
  };
  enum { kHost, kTick, kGovern, kAction };
  void push(Ns when, int kind, std::size_t index, std::uint32_t wake = 0);
  void wake_at(Process& p, Ns when);
  void host(Process& p);
  bool gate(Process& p);
  bool at_rest(Process& p);
  void launch(Process& p);
  void close(Process& p, std::size_t stream, bool tight);
  void close_all(Process& p);
  void close_for_hold(Process& p, Ns hold_ns);
  void tick(Process& p);
  void reap(Process& p);
  void accrue(Process& p);
  void settle_one(Process& p, Record& r);
  void refresh_rate(Tenant& t, bool at_once);
  void govern();
  void sample();
  pc::Reading reading(Process& p, Record& r, Ns end) const;
  void charge(Tenant& t, std::int64_t delta_ns);
  void retired(std::size_t context, std::size_t stream, const Item& item, Ns at) override;
  bool beside(const pc::Reading& r) const {
    return (options_.broken & kOnlySharedPays) != 0 ? !r.alone : r.beside;
  }
  bool outstanding(const Process& p) const { return device.contexts[p.context].queued != 0; }

  Options options_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::uint64_t order_ = 0;
  std::vector<Process*> processes_;
  std::vector<std::function<void()>> actions_;
  pc::Governor governor_;
};

}  // namespace bulkhead::des
