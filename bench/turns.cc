#include "bench/turns.h"

#include <algorithm>
#include <thread>

namespace bulkhead::bench {

void Turns::add(const Lab& lab, const Variant& variant, const Tenant& tenant,
                const std::string& work, Params params, const std::string& launch) {
  params.set("rounds", kRounds);
  params.set("core", core_);
  crews_.push_back(std::make_unique<Crew>(lab, variant, tenant, launch));
  crews_.back()->start(work, params);
}

std::string Turns::lead() {
  const auto all = [this](auto step) {
    for (failed_ = 0; failed_ < crews_.size(); ++failed_)
      if (!step(*crews_[failed_])) return false;
    return true;
  };
  const auto error = [this] { return crews_[failed_]->error(); };
  if (!all([](Crew& c) { return c.all_said(60); })) return error();
  for (unsigned r = 0; r < kRounds; ++r) {
    if (!all([](Crew& c) { return c.go(), c.all_said(60); })) return error();
    std::reverse(crews_.begin(),
                 crews_.end());  // A B B A; kRounds is even, so the order ends as it began
  }
  return all([](Crew& c) { return c.go(), c.finish(60); }) ? "" : error();
}

double Turns::added_ns(unsigned i) {
  std::vector<double> more;
  const Block &first = block(0), &other = block(i);
  for (std::uint64_t r = 0; r < std::min(first.log_count, other.log_count); ++r)
    more.push_back(
        (static_cast<double>(other.log[r].bytes) - static_cast<double>(first.log[r].bytes)) / 1000);
  if (more.empty()) return 0;
  std::nth_element(more.begin(), more.begin() + static_cast<std::ptrdiff_t>(more.size() / 2),
                   more.end());
  return more[more.size() / 2];
}

unsigned core_of(unsigned repeat) {
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  return cores == 1 ? 0 : 1 + repeat * 3 % (cores - 1);
}

}  // namespace bulkhead::bench
