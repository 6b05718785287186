// The project's own kernels: PTX for a real driver, and for the simulated one a host twin of the same
// name that does the same to the same bytes, and what it costs. Level 0: includes nothing of ours.
#pragma once
#include <cstddef>
#include <cstdint>

namespace bulkhead::kernels {

// A launch as a twin sees it. args[i] points at the i-th parameter.
struct Launch {
  unsigned grid[3];
  unsigned block[3];
  const void* const* args;
  bool moves_bytes;  // false: only check addresses
  // True if [at, at + bytes) may be accessed; the rest is an illegal address.
  bool (*reaches)(std::uint64_t at, std::uint64_t bytes);
  unsigned sms;  // multiprocessors that its context has
  template <class T>
  [[nodiscard]] T arg(unsigned i) const noexcept {
    return *static_cast<const T*>(args[i]);
  }
  [[nodiscard]] std::uint64_t threads() const noexcept {
    return std::uint64_t{grid[0]} * grid[1] * grid[2] * block[0] * block[1] * block[2];
  }
};

inline constexpr unsigned kMaxArgs = 8;

struct Kernel {
  const char* name;
  bool (*twin)(const Launch&);              // false: an illegal address
  std::uint64_t (*cost_ns)(const Launch&);  // time on the device, as the simulator counts it
  unsigned args;
  std::uint8_t arg_bytes[kMaxArgs];
  // Address of the 32-bit word at whose first value other than zero the kernel ends; nullptr: it ends by itself.
  std::uint64_t (*until)(const Launch&) = nullptr;
};

// nullptr: not one of ours.
const Kernel* find(const char* name) noexcept;

// One module with every kernel, zero-terminated PTX for sm_70 and later:
//   bh_null()                                              nothing
//   bh_fill(u64 at, u32 value, u64 n)                      at[i] = value, i < n (32-bit words)
//   bh_vector_add(u64 c, u64 a, u64 b, u64 n)              c[i] = a[i] + b[i] (f32)
//   bh_saxpy(u64 y, u64 x, f32 a, u64 n)                   y[i] = a * x[i] + y[i]
//   bh_copy(u64 to, u64 from, u64 n)                       to[i] = from[i] (32-bit words)
//   bh_spin(u64 ns)                                        busy for ns
//   bh_persist(u64 at)                                     busy until the 32-bit word at `at` is not zero
//   bh_work(u64 rounds, u64 out)                           rounds of arithmetic: takes its own time on the GPU only,
//                                                          where bh_spin also counts what others take; out may be 0
//   bh_smid(u64 at, u64 ns)                                each block: bit %smid of the 2048 bits at `at` is set, then busy
//                                                          for ns, so that blocks spread over all multiprocessors there are
//   bh_fault()                                             stores to address 16
// All loops are grid-stride, so any grid will do.
extern const char* const kPtx;

}  // namespace bulkhead::kernels
