// Where the bytes of a transfer are counted against the tenant: the same as hook/copies.h, whose functions take the
// place of the weak ones in transfer_copies_off.cc. To be replaced by that header.
#pragma once
#include <cstdint>

namespace bulkhead::hook {

enum class CopyDirection : std::uint8_t { kToDevice, kToHost, kWithin, kPeer, kSet };
bool copy_admit(unsigned device, std::uint64_t bytes, CopyDirection direction) noexcept;
void note_copy(unsigned device, std::uint64_t bytes, CopyDirection direction) noexcept;

}  // namespace bulkhead::hook
