// What the simulated tenants run.
#pragma once
#include "tests/des/model.h"

namespace bulkhead::des {

using Programs = std::function<Program(std::size_t process)>;

// Kernels of `cost_ns` back to back; the host waits for the device after each `sync_every` (0: never).
inline Programs closed_loop(Ns cost_ns, std::uint64_t sync_every = 0, double spread = 0,
                            Ns until = kNever) {
  return [=](std::size_t) {
    return [=, n = std::uint64_t{0}, synced = false](Ns now, Rng& rng) mutable -> Step {
      if (now >= until) return {};
      if (sync_every != 0 && n % sync_every == 0 && n != 0 && !synced) {
        synced = true;
        return {Step::kSync};
      }
      synced = false;
      ++n;
      Ns cost = cost_ns;
      if (spread > 0) {
        std::uniform_real_distribution<double> d(1 - spread, 1 + spread);
        cost = static_cast<Ns>(static_cast<double>(cost_ns) * d(rng));
      }
      return {Step::kLaunch, cost, cost_ns | 1};
    };
  };
}
// The same, each one a programmatic dependent of the one before; from `later` on a kernel of the same key takes
// `later_ns`.
inline Programs dependents(Ns cost_ns, Ns later = kNever, Ns later_ns = 0) {
  return [=](std::size_t) {
    return [=](Ns now, Rng&) -> Step {
      return {Step::kLaunch, now < later ? cost_ns : later_ns, cost_ns | 1, 0, 1, true};
    };
  };
}
// A kernel, a wait, a pause of the host.
inline Programs sparse(Ns cost_ns, Ns think_ns) {
  return [=](std::size_t) {
    return [=, n = 0](Ns, Rng&) mutable -> Step {
      switch (n++ % 3) {
        case 0:
          return {Step::kLaunch, cost_ns, cost_ns | 1};
        case 1:
          return {Step::kSync};
        default:
          return {Step::kThink, think_ns};
      }
    };
  };
}
// Works for `on_ns`, then nothing for `off_ns`, beginning at `first`.
inline Programs on_off(Ns cost_ns, Ns on_ns, Ns off_ns) {
  return [=](std::size_t) {
    return [=, start = kNever](Ns now, Rng&) mutable -> Step {
      if (start == kNever) start = now;
      if (now >= start + on_ns) {
        start += on_ns + off_ns;
        return {Step::kUntil, start};
      }
      if (now < start) return {Step::kUntil, start};
      return {Step::kLaunch, cost_ns, cost_ns | 1};
    };
  };
}
// Kernels of several lengths by turns.
inline Programs mixed(std::vector<Ns> costs) {
  return [=](std::size_t) {
    return [=, n = std::size_t{0}](Ns, Rng& rng) mutable -> Step {
      n = rng() % costs.size();
      return {Step::kLaunch, costs[n], costs[n] | 1};
    };
  };
}

}  // namespace bulkhead::des
