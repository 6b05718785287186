// Figures: kept by case, figure and variant in the order measured, printed as one table a suite, written as JSON.
#pragma once
#include <cstdio>
#include <string>
#include <vector>

#include "bench/lab.h"
#include "bench/stats.h"

namespace bulkhead::bench {

struct Figure {
  int row = 0;  // of TARGETS; 0: none
  std::string suite, name, figure, unit, variant, note;
  std::vector<double> samples;  // one a repeat, in order, so that pairs of variants can be formed
};

class Results {
 public:
  // Opens a section: figures that follow belong to it.
  void begin(int row, const std::string& suite);
  void add(const std::string& name, const std::string& figure, const std::string& unit,
           const std::string& variant, double value, const std::string& note = "");
  // A case that could not be measured: printed and written as such, never as a number.
  void failed(const std::string& name, const std::string& variant, const std::string& why);
  [[nodiscard]] unsigned failures() const { return static_cast<unsigned>(failed_.size()); }
  [[nodiscard]] const Figure* find(const std::string& name, const std::string& figure,
                                   const std::string& variant) const;

  // The section begun last: a line a figure, a column a variant (median, spread), then bulkhead - native.
  void print(const Lab& lab, std::FILE* to) const;
  // {"schema":1, date, device, driver, command, cases:[...]}. False: it cannot be written.
  [[nodiscard]] bool write(const Lab& lab, const std::string& command, std::FILE* to) const;

 private:
  struct Failure {
    std::string suite, name, variant, why;
  };
  int row_ = 0;
  std::string suite_;
  std::vector<Figure> figures_;
  std::vector<Failure> failed_;
};

}  // namespace bulkhead::bench
