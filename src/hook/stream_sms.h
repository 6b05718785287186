// Streams on multiprocessors of their own: docs/spatial.md, 'Streams'. The parts of a device are two green contexts of its primary one,
// made at the first stream that wants one. Nothing here is on a launch's path; any thread.
#pragma once
#include "hook/hook.h"

namespace bulkhead::hook {

#ifdef BH_HOOK_FAKE  // the memory families' test on a model of the driver (memory_fake.h): no streams there
inline void stream_parts_bound() noexcept {}
inline void stream_parts_gone(std::uint32_t) noexcept {}
inline void end_stream_parts(std::uint32_t) noexcept {}
inline void forget_stream_parts() noexcept {}
#else
// Under process.binding: whether the setting asks for anything.
void stream_parts_bound() noexcept;
// The device's primary context has ended, and the parts with it. The measuring thread is paused.
void stream_parts_gone(std::uint32_t number) noexcept;
// The program lets go of the primary context, which the parts would keep alive: they end now. The measuring thread is paused.
void end_stream_parts(std::uint32_t number) noexcept;
// In the child of a fork.
void forget_stream_parts() noexcept;
#endif

// The primary context of the device of that number, null: not active (context.cc).
[[nodiscard]] CUcontext primary_context(std::uint32_t number) noexcept;

}  // namespace bulkhead::hook
