// Medians with their spread, and the interval of a difference of two medians.
#pragma once
#include <vector>

namespace bulkhead::bench {

[[nodiscard]] double median(std::vector<double> v);  // 0 if empty

struct Interval {
  double low = 0, middle = 0, high = 0;
};
// median(b) - median(a) with its 95 % interval, by 2,000 resamples with a fixed seed (percentile bootstrap).
[[nodiscard]] Interval difference_of_medians(const std::vector<double>& a,
                                             const std::vector<double>& b);

}  // namespace bulkhead::bench
