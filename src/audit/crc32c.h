// CRC32C (Castagnoli, reflected, as iSCSI): finds torn writes. It proves nothing against a person.
#pragma once
#include <cstdint>

#include "audit/sha256.h"

namespace bulkhead::audit {

[[nodiscard]] std::uint32_t crc32c(Bytes data, std::uint32_t before = 0) noexcept;

}  // namespace bulkhead::audit
