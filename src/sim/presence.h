// Which of the machine's processes live, and by which pid they are known here. In our own pid namespace /proc says it; a
// process of another one is known by its record lock on a file of sim/, which the kernel drops with it and names by the
// pid of whoever asks. All under the machine's lock.
#pragma once
#include <cstdint>

#include "sim/state.h"

namespace bulkhead::sim {

std::uint64_t own_pid_namespace() noexcept;  // 0: /proc is absent
// Takes this process's lock. Failing costs only what other pid namespaces see of it: there it is taken for dead.
void hold_presence(unsigned slot) noexcept;
// `own_namespace`: own_pid_namespace(). `pid_here` stays 0 if the process cannot be seen from here.
bool is_present(const ProcessLedger& process, unsigned slot, std::uint64_t own_namespace,
                std::uint32_t& pid_here) noexcept;

}  // namespace bulkhead::sim
