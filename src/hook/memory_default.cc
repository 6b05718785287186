// The memory side's part in the process's life, for a library without it: nothing. Weak, replaced
// at link time.
#include "hook/hook.h"

namespace bulkhead::hook {

[[gnu::weak]] void memory_forked_child() noexcept {}
[[gnu::weak]] void memory_bound() noexcept {}
[[gnu::weak]] bool memory_trim(Device&) noexcept { return false; }
[[gnu::weak]] void memory_context_gone(CUcontext) noexcept {}

}  // namespace bulkhead::hook
