// bulkhead doctor: what works on this machine, and for what does not one fix a line.
#pragma once
#include <string>

namespace bulkhead::cli {

struct DoctorOptions {
  bool json = false;
  std::string simulator;  // a profile
  bool self_test = false;
  std::string mps_control;  // "": nvidia-cuda-mps-control
  bool no_mps = false;      // the self-test starts none
};
// 0: `run` can be used here; 1: it cannot.
int doctor(const DoctorOptions& options);

}  // namespace bulkhead::cli
