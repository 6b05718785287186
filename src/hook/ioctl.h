// The library's own door to the kernel. See ioctl.cc.
#pragma once

namespace bulkhead::hook {

// Finds whoever defines ioctl after us; before it the system call is made. From the constructor.
void find_next_ioctl() noexcept;

}  // namespace bulkhead::hook
