// One device's governor: from what its tenants' processes say each millisecond to the shared clock, kappa and each tenant's rate.
// docs/compute.md, 'The governor'. Pure; one thread (the daemon's control loop, or a test in virtual time). Times: ns of
// CLOCK_MONOTONIC. The figures are strangers': each is bounded by what a look can hold.
#pragma once
#include <cstdint>

#include "policy/compute/meter.h"
#include "policy/compute/rates.h"
#include "policy/compute/vclock.h"

namespace bulkhead::policy::compute {

inline constexpr std::uint64_t kPeriod_ns = 200'000'000;    // of kappa
inline constexpr std::uint64_t kMostTold_ns = 100'000'000;  // a tenant's charges between two looks

// What the governor remembers of a process and of a tenant; zero at the start.
struct ProcessState {
  std::uint64_t seen_empty_ns = 0, period_empty_ns = 0;
  bool known = false;
};
struct TenantState {
  std::uint64_t seen_raw_ns = 0, seen_shared_ns = 0, seen_short_ns = 0;
  std::uint64_t recent_raw_ns = 0, recent_empty_ns = 0, queued_since_ns = 0;
  bool known = false;
};

// What they say now. `work`: something is queued, or was since the last look.
struct ProcessSeen {
  bool work = false, with_long = false;
  std::uint64_t empty_ns = 0;  // how long it had nothing queued, rises
};
struct TenantSeen {
  std::uint32_t floor_x100 = 0, ceiling_x100 = 0;  // floor 0: no share, so it gets no rate
  std::uint64_t raw_ns = 0;                        // charges before kappa, a sum as the next two
  std::uint64_t shared_raw_ns = 0;                 // of them, of what ran beside others
  std::uint64_t short_ns = 0;                      // of them, of short operations
  std::uint64_t wanted_at_ns = 0;                  // last launch or hold
  std::uint64_t held_until_ns = 0;                 // the bucket holds it, or did until then
};

// A look: begin(), then for each tenant process() for each of its processes and tenant(), then end().
class Governor {
 public:
  void begin(std::uint64_t now) noexcept {
    last_ns_ = now_ns_ == 0 || now <= now_ns_ ? now : now_ns_;
    now_ns_ = now;
    contexts_ = with_long_ = count_ = demanding_ = 0;
    short_ns_ = 0;
    least_period_empty_ns_ = ~std::uint64_t{0};
    period_over_ = period_start_ns_ != 0 && now - period_start_ns_ >= kPeriod_ns;
    if (period_start_ns_ == 0) period_start_ns_ = now;
    reset_tenant();
  }
  void process(ProcessState& s, const ProcessSeen& p) noexcept {
    const std::uint64_t period = now_ns_ - period_start_ns_;
    if (!s.known) s = {p.empty_ns, period, true};  // who is new had nothing queued before
    // It may tell of more than the time since the last look, for it tells when it likes.
    const std::uint64_t empty = detail::least(risen(s.seen_empty_ns, p.empty_ns), kMostTold_ns);
    s.period_empty_ns = detail::least(s.period_empty_ns + empty, period);
    least_period_empty_ns_ = detail::least(least_period_empty_ns_, s.period_empty_ns);
    if (period_over_) s.period_empty_ns = 0;
    contexts_ += p.work;
    with_long_ += p.work && p.with_long;
    tenant_works_ = tenant_works_ || p.work;
    tenant_empty_ns_ = detail::least(tenant_empty_ns_, empty);
  }
  // False: there are too many already; its rate is its floor.
  bool tenant(TenantState& s, const TenantSeen& t) noexcept {
    const std::uint64_t dt = now_ns_ - last_ns_;
    if (!s.known) s = {t.raw_ns, t.shared_raw_ns, t.short_ns, 0, 0, now_ns_, true};
    std::int64_t raw = moved(s.seen_raw_ns, t.raw_ns);
    std::int64_t shared = moved(s.seen_shared_ns, t.shared_raw_ns);
    std::uint64_t short_ns = detail::least(risen(s.seen_short_ns, t.short_ns), kMostOwed_ns);
    if (woken_) raw = shared = 0, short_ns = 0;  // of the time in which nobody looked
    short_ns_ += short_ns;
    period_shared_ns_ += shared;
    period_alone_ns_ += raw - shared;
    const bool none = tenant_empty_ns_ == ~std::uint64_t{0};  // it has no process
    const std::uint64_t empty = none ? dt : tenant_empty_ns_;
    s.recent_raw_ns = sum(s.recent_raw_ns * 15 / 16, raw);
    s.recent_empty_ns = s.recent_empty_ns * 15 / 16 + empty;
    if (!tenant_works_ || empty != 0) s.queued_since_ns = now_ns_;
    const bool wants = tenant_works_ || recent(t.wanted_at_ns);
    const bool held = recent(t.held_until_ns);
    const std::uint32_t asks =
        !wants ? 0
               : demand_x100(s.recent_raw_ns, s.recent_empty_ns, now_ns_ - s.queued_since_ns, held);
    reset_tenant();
    demanding_ += wants;
    if (count_ == kMaxSharers) return false;
    want_[count_++] = {t.floor_x100, t.ceiling_x100, asks};
    return true;
  }
  // `rates_x100`: of the tenants for which tenant() was true, in that order.
  void end(std::uint32_t loss_x1000, std::uint32_t* rates_x100) noexcept {
    clock_ = advanced(clock_, now_ns_, {contexts_, with_long_, short_ns_}, loss_x1000);
    if (period_over_) {
      kappa_ = next_kappa(kappa_, {now_ns_ - period_start_ns_, least_period_empty_ns_,
                                   sum(0, period_alone_ns_), sum(0, period_shared_ns_)});
      period_start_ns_ = now_ns_;
      period_alone_ns_ = period_shared_ns_ = 0;
    }
    woken_ = false;
    fill(want_, count_, rates_x100);
    for (std::uint32_t i = 0; i < count_ && demanding_ == 1; ++i)
      if (want_[i].demand_x100 != 0 && want_[i].ceiling_x100 > rates_x100[i])
        rates_x100[i] =
            want_[i].ceiling_x100;  // nobody else wants it: it need not be known what it would use
  }
  // Nobody looked for a while in which at most one context had work (the governor rested): the clock went on undivided.
  void rested(std::uint64_t now) noexcept {
    clock_ = advanced(clock_, now, {}, 0);
    now_ns_ = now;
    woken_ = true;
    period_start_ns_ = 0;
    period_alone_ns_ = period_shared_ns_ = 0;
  }

  [[nodiscard]] const VPoint& clock() const noexcept { return clock_; }
  [[nodiscard]] std::uint32_t kappa() const noexcept { return kappa_; }
  [[nodiscard]] std::uint32_t contexts() const noexcept { return contexts_; }
  [[nodiscard]] std::uint32_t demanding() const noexcept { return demanding_; }
  void set_kappa(std::uint32_t kappa) noexcept { kappa_ = kappa; }

 private:
  // What runs is charged as it runs and corrected when it ends, so these sums may fall.
  static std::int64_t moved(std::uint64_t& seen, std::uint64_t is) noexcept {
    constexpr auto kMost = static_cast<std::int64_t>(kMostTold_ns);
    const auto by = static_cast<std::int64_t>(is - seen);
    seen = is;
    return by > kMost ? kMost : by < -kMost ? -kMost : by;
  }
  static std::uint64_t sum(std::uint64_t a, std::int64_t b) noexcept {
    const std::int64_t s = static_cast<std::int64_t>(a) + b;
    return s > 0 ? static_cast<std::uint64_t>(s) : 0;
  }
  static std::uint64_t risen(std::uint64_t& seen, std::uint64_t is) noexcept {
    const std::uint64_t by = is > seen ? is - seen : 0;
    seen = is;
    return by;
  }
  [[nodiscard]] bool recent(std::uint64_t at) const noexcept {
    return at != 0 && at < now_ns_ + kMostTold_ns && now_ns_ < at + kDemand_ns;
  }
  void reset_tenant() noexcept {
    tenant_works_ = false;
    tenant_empty_ns_ = ~std::uint64_t{0};
  }

  VPoint clock_;
  std::uint32_t kappa_ = kKappaOne;
  std::uint64_t now_ns_ = 0, last_ns_ = 0, period_start_ns_ = 0;
  std::int64_t period_alone_ns_ = 0, period_shared_ns_ = 0;
  std::uint64_t least_period_empty_ns_ = 0;
  bool period_over_ = false, woken_ = false;
  std::uint32_t contexts_ = 0, with_long_ = 0, demanding_ = 0, count_ = 0;
  std::uint64_t short_ns_ = 0;
  bool tenant_works_ = false;
  std::uint64_t tenant_empty_ns_ = 0;
  Want want_[kMaxSharers] = {};
};

}  // namespace bulkhead::policy::compute
