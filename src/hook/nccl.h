// NCCL: which library a caller would have had, the communicators of this process, and groups. docs/compute.md,
// 'Collectives'. Cold but for the two questions below.
//
// A program reaches NCCL by its own link, by dlopen and dlsym, or through a library that it loaded (PyTorch brings a copy of its own).
// Our exports stand before all of them in the global scope, and every call goes on to the copy that this caller would have got:
// two copies in one process never meet.
#pragma once
#include <cstdint>

#include "abi/nccl_types.h"
#include "abi/table_macros.h"

extern "C" {
#define BH_HOOK(name, since, family, ...) ncclResult_t name(BH_PARAMS(__VA_ARGS__)) noexcept;
#include "abi/nccl.def"
}

namespace bulkhead::hook {

// One copy of the library, as far as we call it; null: it lacks the function.
struct NcclCalls {
  const void* base;  // where it is mapped; null: free
#define BH_HOOK(name, since, family, ...) decltype(&::name) name;
#include "abi/nccl.def"
};

// nccl_find.cc. The copy that the code at `caller` would have got; null: there is none.
[[nodiscard]] const NcclCalls* nccl_calls(const void* caller) noexcept;
// What dlsym answers for a name of NCCL's, when the real one found `found`: our export, what was found, or null, as it would be
// without us.
[[nodiscard]] void* nccl_answer(const char* name, void* found, const void* caller) noexcept;

// A launch of a collective on the device: the place in the region's `comms` where its ranks agree, and its number; place < 0: no
// communicator is known there.
struct Collective {
  int place = -1;
  std::uint32_t number = 0;
};
[[nodiscard]] Collective nccl_launched(unsigned device) noexcept;
// In the child of a fork.
void nccl_forked_child() noexcept;

}  // namespace bulkhead::hook
