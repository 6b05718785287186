#include "bench/stats.h"

#include <algorithm>
#include <random>

namespace bulkhead::bench {

double median(std::vector<double> v) {
  if (v.empty()) return 0;
  const std::size_t mid = v.size() / 2;
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(mid), v.end());
  if (v.size() % 2 == 1) return v[mid];
  const double upper = v[mid];
  return (upper + *std::max_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(mid))) / 2;
}

static std::vector<double> resample(const std::vector<double>& v, std::mt19937_64& random) {
  std::uniform_int_distribution<std::size_t> pick(0, v.size() - 1);
  std::vector<double> out(v.size());
  for (double& x : out) x = v[pick(random)];
  return out;
}

Interval difference_of_medians(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.empty() || b.empty()) return {};
  constexpr int kResamples = 2000;
  std::mt19937_64 random(20'251'122);
  std::vector<double> differences(kResamples);
  for (double& d : differences) d = median(resample(b, random)) - median(resample(a, random));
  std::sort(differences.begin(), differences.end());
  return {differences[kResamples / 40], median(b) - median(a),
          differences[kResamples - 1 - kResamples / 40]};
}

}  // namespace bulkhead::bench
