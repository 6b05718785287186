// compute_des: what the compute policy does in virtual time, as tables. --table (default) | --dampening
#include <cmath>
#include <cstdio>
#include <cstring>

#include "tests/des/programs.h"

namespace bulkhead::des {
namespace {

constexpr Ns kCosts[] = {5 * kUs, 100 * kUs, 1 * kMs, 1'680 * kUs, 10 * kMs};
constexpr int kShares[] = {10, 25, 50, 75, 90};

double solo(Ns cost) { return static_cast<double>(cost) / static_cast<double>(cost + 1'600); }

void alone() {
  std::printf("Share error alone, points (10 s; 3 s for 5 us)\n%10s", "kernel us");
  for (const int q : kShares) std::printf("%8d%%", q);
  for (const Ns cost : kCosts) {
    std::printf("\n%10.0f", static_cast<double>(cost) / 1e3);
    const Ns run = cost < 50 * kUs ? 3 * kSec : 10 * kSec;
    for (const int q : kShares) {
      Machine m;
      const Tenant& t = m.add({hard(q), closed_loop(cost)});
      m.run(run);
      std::printf("%+9.2f", 100 * t.share(0, run) / solo(cost) - q);
    }
  }
  std::printf("\n\n");
}

void contended() {
  std::printf(
      "Share error contended, caps q and 100-q, points; in brackets all useful time, %%\n%14s",
      "kernels us");
  for (const int q : kShares) std::printf("%14d%%", q);
  for (const Ns a_cost : kCosts) {
    for (const Ns b_cost : kCosts) {
      if (b_cost < a_cost) continue;
      std::printf("\n%6.0f /%6.0f", static_cast<double>(a_cost) / 1e3,
                  static_cast<double>(b_cost) / 1e3);
      const Ns run = a_cost < 50 * kUs ? 3 * kSec : 10 * kSec;
      for (const int q : kShares) {
        Machine m;
        const Tenant& a = m.add({hard(q), closed_loop(a_cost)});
        const Tenant& b = m.add({hard(100 - q), closed_loop(b_cost)});
        m.run(run);
        const double x = a.share(0, run) / solo(a_cost), y = b.share(0, run) / solo(b_cost);
        std::printf("%+10.2f (%2.0f)", 100 * x / (x + y) - q, 100 * (x + y));
      }
    }
  }
  std::printf("\n\n");
}

// A lender comes and goes each second; the borrower's floor is 25 %.
void dampening() {
  std::printf(
      "Dampening (25%%+ beside 75%%+ that comes and goes each second, kernels of 0.5 ms)\n"
      "%9s %22s %24s %26s\n",
      "d", "idle time used, %", "ms until given back", "worst 100 ms, points");
  for (const std::uint32_t d : {1'000u, 900u, 500u, 100u, 20u}) {
    Machine m;
    Limit lend = soft(75), borrow = soft(25);
    lend.dampening_x1000 = borrow.dampening_x1000 = d;
    const Tenant& lender = m.add({lend, on_off(500 * kUs, kSec, kSec)});
    const Tenant& borrower = m.add({borrow, closed_loop(500 * kUs)});
    m.run(20 * kSec);
    double used = 0, back = 0, worst = 0;
    for (Ns at = 3 * kSec; at < 19 * kSec; at += 2 * kSec) {
      used += borrower.share(at, at + kSec) / solo(500 * kUs) / 8;
      const Ns from = at + kSec;
      const double steady = lender.share(from + 200 * kMs, from + 900 * kMs);
      Ns ms = 0;
      while (ms < 500 && lender.share(from + ms * kMs, from + (ms + 20) * kMs) < 0.9 * steady) ++ms;
      back += static_cast<double>(ms) / 8;
      const double fair = borrower.share(from + 200 * kMs, from + 900 * kMs);
      for (Ns w = from; w + 100 * kMs < from + kSec; w += 5 * kMs)
        worst = std::max(worst, 100 * (borrower.share(w, w + 100 * kMs) - fair));
    }
    std::printf("%9.3f %22.1f %24.1f %+26.1f\n", d / 1e3, 100 * used, back, worst);
  }
}

}  // namespace
}  // namespace bulkhead::des

int main(int argc, char** argv) {
  const bool only = argc > 1 && std::strcmp(argv[1], "--dampening") == 0;
  if (!only) {
    bulkhead::des::alone();
    bulkhead::des::contended();
  }
  bulkhead::des::dampening();
}
