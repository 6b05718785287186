#include "kernels/kernels.h"

#include <cstring>

namespace bulkhead::kernels {
namespace {

constexpr std::uint64_t kLaunchNs = 2000;         // an empty kernel
constexpr std::uint64_t kBytesPerUs = 2'000'000;  // memory-bound kernels, both directions together

std::uint64_t moved(std::uint64_t bytes) noexcept { return kLaunchNs + bytes * 1000 / kBytesPerUs; }

bool null_twin(const Launch&) { return true; }
std::uint64_t null_cost(const Launch&) { return kLaunchNs; }

bool fill_twin(const Launch& l) {
  const auto at = l.arg<std::uint64_t>(0), n = l.arg<std::uint64_t>(2);
  const auto value = l.arg<std::uint32_t>(1);
  if (n != 0 && !l.reaches(at, n * 4)) return false;
  if (!l.moves_bytes) return true;
  for (std::uint64_t i = 0; i < n; ++i) reinterpret_cast<std::uint32_t*>(at)[i] = value;
  return true;
}
std::uint64_t fill_cost(const Launch& l) { return moved(l.arg<std::uint64_t>(2) * 4); }

bool vector_add_twin(const Launch& l) {
  const auto c = l.arg<std::uint64_t>(0), a = l.arg<std::uint64_t>(1), b = l.arg<std::uint64_t>(2);
  const auto n = l.arg<std::uint64_t>(3);
  if (n != 0 && (!l.reaches(c, n * 4) || !l.reaches(a, n * 4) || !l.reaches(b, n * 4)))
    return false;
  if (!l.moves_bytes) return true;
  for (std::uint64_t i = 0; i < n; ++i) {
    reinterpret_cast<float*>(c)[i] =
        reinterpret_cast<const float*>(a)[i] + reinterpret_cast<const float*>(b)[i];
  }
  return true;
}
std::uint64_t vector_add_cost(const Launch& l) { return moved(l.arg<std::uint64_t>(3) * 12); }

bool saxpy_twin(const Launch& l) {
  const auto y = l.arg<std::uint64_t>(0), x = l.arg<std::uint64_t>(1), n = l.arg<std::uint64_t>(3);
  const auto a = l.arg<float>(2);
  if (n != 0 && (!l.reaches(y, n * 4) || !l.reaches(x, n * 4))) return false;
  if (!l.moves_bytes) return true;
  for (std::uint64_t i = 0; i < n; ++i) {
    reinterpret_cast<float*>(y)[i] += a * reinterpret_cast<const float*>(x)[i];
  }
  return true;
}
std::uint64_t saxpy_cost(const Launch& l) { return moved(l.arg<std::uint64_t>(3) * 12); }

bool copy_twin(const Launch& l) {
  const auto to = l.arg<std::uint64_t>(0), from = l.arg<std::uint64_t>(1);
  const auto n = l.arg<std::uint64_t>(2);
  if (n != 0 && (!l.reaches(to, n * 4) || !l.reaches(from, n * 4))) return false;
  if (n == 0 || !l.moves_bytes) return true;
  std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), n * 4);
  return true;
}
std::uint64_t copy_cost(const Launch& l) { return moved(l.arg<std::uint64_t>(2) * 8); }

bool work_twin(const Launch& l) {
  const auto out = l.arg<std::uint64_t>(1);
  if (out == 0) return true;
  if (!l.reaches(out, 4)) return false;
  if (!l.moves_bytes) return true;
  // Thread 0 after all rounds at once: x -> a x + c, composed with itself by doubling.
  std::uint32_t a = 1664525, c = 1013904223, sum = 0;
  for (auto rounds = l.arg<std::uint64_t>(0); rounds != 0; rounds >>= 1) {
    if ((rounds & 1) != 0) sum = sum * a + c;
    c = (a + 1) * c;
    a *= a;
  }
  *reinterpret_cast<std::uint32_t*>(out) = sum;
  return true;
}
// Assumed: the dependent multiply and the loop around it; no figure of a GPU.
constexpr std::uint64_t kRoundNs = 5;
std::uint64_t work_cost(const Launch& l) { return kLaunchNs + l.arg<std::uint64_t>(0) * kRoundNs; }
std::uint64_t spin_cost(const Launch& l) { return kLaunchNs + l.arg<std::uint64_t>(0); }

// Where work is done as soon as it is submitted, it ends at once.
bool persist_twin(const Launch& l) { return l.reaches(l.arg<std::uint64_t>(0), 4); }
std::uint64_t persist_until(const Launch& l) { return l.arg<std::uint64_t>(0); }

// Blocks as wide as a multiprocessor, so one on each until there are no more.
constexpr unsigned kSmidBits = 2048;
bool smid_twin(const Launch& l) {
  const auto at = l.arg<std::uint64_t>(0);
  if (!l.reaches(at, kSmidBits / 8)) return false;
  if (!l.moves_bytes) return true;
  for (unsigned sm = 0; sm < l.sms && sm < l.grid[0] && sm < kSmidBits; ++sm)
    reinterpret_cast<std::uint32_t*>(at)[sm / 32] |= 1u << sm % 32;
  return true;
}
std::uint64_t smid_cost(const Launch& l) { return kLaunchNs + l.arg<std::uint64_t>(1); }

bool fault_twin(const Launch&) { return false; }

constexpr Kernel kKernels[] = {
    {"bh_null", null_twin, null_cost, 0, {}},
    {"bh_fill", fill_twin, fill_cost, 3, {8, 4, 8}},
    {"bh_vector_add", vector_add_twin, vector_add_cost, 4, {8, 8, 8, 8}},
    {"bh_saxpy", saxpy_twin, saxpy_cost, 4, {8, 8, 4, 8}},
    {"bh_copy", copy_twin, copy_cost, 3, {8, 8, 8}},
    {"bh_spin", null_twin, spin_cost, 1, {8}},
    {"bh_persist", persist_twin, null_cost, 1, {8}, persist_until},
    {"bh_work", work_twin, work_cost, 2, {8, 8}},
    {"bh_smid", smid_twin, smid_cost, 2, {8, 8}},
    {"bh_fault", fault_twin, null_cost, 0, {}},
};

}  // namespace

const Kernel* find(const char* name) noexcept {
  for (const Kernel& k : kKernels) {
    if (std::strcmp(k.name, name) == 0) return &k;
  }
  return nullptr;
}

}  // namespace bulkhead::kernels
