// atomics: the bucket is a word of the region that the library passes in; its rules belong to the policy.
// The token bucket of compute shares: one 64-bit word, the generic cell rate algorithm (ITU-T I.371) in virtual time,
// docs/compute.md.
//
// Claim  Every charge counts exactly once (or is told as forgiven), whoever races and whoever dies; over any interval T
//        a tenant that has been charged q T + B starts no further operation in it, q the rate and B the burst.
// Proof  The word is changed by whole read-modify-writes, so no charge is lost. A tenant is admitted while
//        tat <= now + B/q; each charge c moves tat by c/q, and time moves `now` by itself.
// Price  Post-paid: the operation that takes it below zero is allowed. A charge of a process that dies is not given back.
//
// Everything is in ns; rates in hundredths of a percent of the device's time, 1..10000. The word holds nothing but
// itself, so every operation on it is relaxed. No function allocates, blocks or divides by a variable but make_rules().
// All are thread-safe.
#pragma once
#include <atomic>
#include <cstdint>

namespace bulkhead::policy::compute {

using Bucket = std::atomic<std::uint64_t>;

inline constexpr std::uint32_t kWhole_x100 = 10'000;
inline constexpr std::uint64_t kMaxDebt_ns = 1'000'000'000;  // of waiting, beyond the burst
inline constexpr std::uint64_t kResume_ns = 1'000'000;  // GPU time; half the burst if that is less
inline constexpr std::uint64_t kMaxCost_ns = 1ull << 48;  // three days; keeps products below 2^86
inline constexpr int kBucketTries = 64;                   // then an addition without a look

// What the bucket needs of a limit, with the divisions done. Make it when the rate changes, keep it by value.
struct Rules {
  std::uint32_t rate_x100 = kWhole_x100;
  std::uint64_t stretch_q24 = 1ull << 24;    // 1/q: GPU time to waiting time
  std::uint64_t burst_ns = 0;                // GPU time
  std::uint64_t burst_wait_ns = 0;           // B/q
  std::uint64_t resume_wait_ns = 0;          // who was held goes on with this much in hand
  std::uint64_t most_wait_ns = kMaxDebt_ns;  // tat is clamped to now + this: B/q + D
};

// `rate_x100` out of range is taken as the nearest in it.
[[nodiscard]] constexpr Rules make_rules(std::uint32_t rate_x100, std::uint64_t burst_ns) noexcept {
  Rules r;
  r.rate_x100 = rate_x100 == 0 ? 1 : rate_x100 > kWhole_x100 ? kWhole_x100 : rate_x100;
  r.stretch_q24 = ((std::uint64_t{kWhole_x100} << 24) + r.rate_x100 / 2) / r.rate_x100;
  r.burst_ns = burst_ns < kMaxCost_ns ? burst_ns : kMaxCost_ns;
  r.burst_wait_ns = static_cast<std::uint64_t>(
      (static_cast<unsigned __int128>(r.burst_ns) * r.stretch_q24) >> 24);
  const std::uint64_t resume_ns = r.burst_ns / 2 < kResume_ns ? r.burst_ns / 2 : kResume_ns;
  r.resume_wait_ns =
      static_cast<std::uint64_t>((static_cast<unsigned __int128>(resume_ns) * r.stretch_q24) >> 24);
  r.most_wait_ns = r.burst_wait_ns + kMaxDebt_ns;
  return r;
}

// GPU time as waiting time: cost / q, to the nearest ns. The error of 1/q is under 3e-8 of it for every rate.
[[nodiscard]] constexpr std::uint64_t stretched_ns(std::uint64_t cost_ns,
                                                   const Rules& rules) noexcept {
  const std::uint64_t c = cost_ns < kMaxCost_ns ? cost_ns : kMaxCost_ns;
  return static_cast<std::uint64_t>(
      (static_cast<unsigned __int128>(c) * rules.stretch_q24 + (1u << 23)) >> 24);
}

// The same of a cost of at most kShortCost_ns, in 64 bits: 1/q is below 2^14.
inline constexpr std::uint64_t kShortCost_ns = 1'000'000;
[[nodiscard]] constexpr std::uint64_t short_stretched_ns(std::uint64_t cost_ns,
                                                         const Rules& rules) noexcept {
  return (cost_ns * rules.stretch_q24 + (1u << 23)) >> 24;
}

// 0: admitted now. Else the exact time until it would be, if nothing more is charged. Never above the clamp, so a word
// that someone scribbled on holds nobody for longer.
[[nodiscard]] constexpr std::uint64_t wait_ns(std::uint64_t tat, std::uint64_t now,
                                              const Rules& rules) noexcept {
  if (tat <= now || tat - now <= rules.burst_wait_ns) return 0;
  const std::uint64_t wait = tat - now - rules.burst_wait_ns;
  return wait < kMaxDebt_ns ? wait : kMaxDebt_ns;
}

// What the tenant could still spend at once, GPU time; negative: its debt. For display and tests: it divides.
[[nodiscard]] constexpr std::int64_t tokens_ns(std::uint64_t tat, std::uint64_t now,
                                               const Rules& rules) noexcept {
  const std::uint64_t ahead = tat <= now                       ? 0
                              : tat - now < rules.most_wait_ns ? tat - now
                                                               : rules.most_wait_ns;
  return static_cast<std::int64_t>(rules.burst_ns) -
         static_cast<std::int64_t>(static_cast<unsigned __int128>(ahead) * rules.rate_x100 /
                                   kWhole_x100);
}

namespace detail {
// The part of a wait of `over_ns` that is given up, as GPU time.
[[nodiscard]] constexpr std::uint64_t forgiven_ns(std::uint64_t over_ns,
                                                  const Rules& rules) noexcept {
  return static_cast<std::uint64_t>(static_cast<unsigned __int128>(over_ns) * rules.rate_x100 /
                                    kWhole_x100);
}
}  // namespace detail

// Takes `cost_ns` of GPU time. Returns what the clamp forgave of it (GPU time), 0 as a rule.
inline std::uint64_t charge(Bucket& tat, std::uint64_t now, std::uint64_t cost_ns,
                            const Rules& rules) noexcept {
  const std::uint64_t wait = stretched_ns(cost_ns, rules);
  const std::uint64_t most = now + rules.most_wait_ns;
  std::uint64_t seen = tat.load(std::memory_order_relaxed);  // a guess, the CAS decides
  for (int i = 0; i < kBucketTries; ++i) {
    const std::uint64_t from = seen < now ? now : seen < most ? seen : most;
    const std::uint64_t next = from + wait;
    const std::uint64_t kept = next < most ? next : most;
    // Relaxed: the word orders nothing but itself.
    if (tat.compare_exchange_weak(seen, kept, std::memory_order_relaxed, std::memory_order_relaxed))
        [[likely]] {
      return next > kept ? detail::forgiven_ns(next - kept, rules) : 0;
    }
  }
  // 64 others came first: the word is ahead of now, so the addition alone is right. Relaxed as above.
  tat.fetch_add(wait, std::memory_order_relaxed);
  return 0;
}

namespace detail {
// One try. kNo: it is not to be charged here; `seen` is what the word was.
enum class Tried : std::uint8_t { kDone, kNo, kAgain };
template <class Free>
[[nodiscard]] inline Tried try_charge(Bucket& tat, std::uint64_t& seen, std::uint64_t now,
                                      std::uint64_t wait, const Rules& rules,
                                      Free is_free) noexcept {
  const std::uint64_t ahead = seen > now ? seen - now : 0;
  if (ahead > rules.burst_wait_ns && !is_free()) return Tried::kNo;
  if (ahead + wait > rules.most_wait_ns) return Tried::kNo;
  // Relaxed: the word orders nothing but itself.
  return tat.compare_exchange_strong(seen, now + ahead + wait, std::memory_order_relaxed,
                                     std::memory_order_relaxed)
             ? Tried::kDone
             : Tried::kAgain;
}
template <class Free>
[[gnu::cold, gnu::noinline]] bool charge_again(Bucket& tat, std::uint64_t now, std::uint64_t wait,
                                               const Rules& rules, Free is_free) noexcept {
  std::uint64_t seen = tat.load(std::memory_order_relaxed);  // a guess, the CAS decides
  Tried last = Tried::kAgain;
  for (int i = 0; i < kBucketTries && last == Tried::kAgain; ++i)
    last = try_charge(tat, seen, now, wait, rules, is_free);
  return last == Tried::kDone;
}
}  // namespace detail

// charge() where the tenant is admitted now, or `is_free()` of that, and nothing would be forgiven: one look and one CAS. False:
// nothing was charged. Never more than kShortCost_ns.
template <class Free>
[[nodiscard]] inline bool charge_admitted(Bucket& tat, std::uint64_t now, std::uint64_t cost_ns,
                                          const Rules& rules, Free is_free) noexcept {
  if (cost_ns > kShortCost_ns) return false;
  const std::uint64_t wait = short_stretched_ns(cost_ns, rules);
  std::uint64_t seen = tat.load(std::memory_order_relaxed);  // a guess, the CAS decides
  const detail::Tried first = detail::try_charge(tat, seen, now, wait, rules, is_free);
  if (first == detail::Tried::kAgain) [[unlikely]]
    return detail::charge_again(tat, now, wait, rules, is_free);
  return first == detail::Tried::kDone;
}

// Gives back `refund_ns` of GPU time that was charged and not used; never beyond a full bucket.
inline void refund(Bucket& tat, std::uint64_t now, std::uint64_t refund_ns,
                   const Rules& rules) noexcept {
  const std::uint64_t wait = stretched_ns(refund_ns, rules);
  std::uint64_t seen = tat.load(std::memory_order_relaxed);  // a guess, the CAS decides
  for (int i = 0; i < kBucketTries; ++i) {
    if (seen <= now) return;  // full already
    const std::uint64_t next = seen - now > wait ? seen - wait : now;
    // Relaxed: the word orders nothing but itself.
    if (tat.compare_exchange_weak(seen, next, std::memory_order_relaxed, std::memory_order_relaxed))
      return;
  }
  // Lost 64 races: the refund is given up. It is the tenant's loss, never its neighbours'.
}

// After the measurement: `delta_ns` = measured - charged, GPU time. Returns what the clamp forgave.
inline std::uint64_t settle(Bucket& tat, std::uint64_t now, std::int64_t delta_ns,
                            const Rules& rules) noexcept {
  if (delta_ns > 0) return charge(tat, now, static_cast<std::uint64_t>(delta_ns), rules);
  if (delta_ns < 0) refund(tat, now, 0 - static_cast<std::uint64_t>(delta_ns), rules);
  return 0;
}

// The rate changed from `old_rules` to `new_rules`: the same debt in GPU time is another wait. By the one process that
// changed the tenant's rate word. Two changes at once commute. `borrowed`: the old rate was above the floor, and the
// burst went with what was lent, so the tenant goes on with no tokens. Returns what the new clamp forgave.
inline std::uint64_t rescale(Bucket& tat, std::uint64_t now, const Rules& old_rules,
                             const Rules& new_rules, bool borrowed) noexcept {
  const bool drain = borrowed && new_rules.rate_x100 < old_rules.rate_x100;
  std::uint64_t seen = tat.load(std::memory_order_relaxed);  // a guess, the CAS decides
  for (int i = 0; i < kBucketTries; ++i) {
    std::uint64_t ahead = seen <= now ? 0 : seen - now;
    if (ahead > old_rules.most_wait_ns) ahead = old_rules.most_wait_ns;
    std::uint64_t wait = static_cast<std::uint64_t>(static_cast<unsigned __int128>(ahead) *
                                                    old_rules.rate_x100 / new_rules.rate_x100);
    if (drain && wait < new_rules.burst_wait_ns) wait = new_rules.burst_wait_ns;
    if (wait == 0) return 0;
    const std::uint64_t kept = wait < new_rules.most_wait_ns ? wait : new_rules.most_wait_ns;
    // Relaxed: the word orders nothing but itself.
    if (tat.compare_exchange_weak(seen, now + kept, std::memory_order_relaxed,
                                  std::memory_order_relaxed))
      return wait > kept ? detail::forgiven_ns(wait - kept, new_rules) : 0;
  }
  return 0;  // lost 64 races: the debt stands at the old rate, within the clamp
}

}  // namespace bulkhead::policy::compute
