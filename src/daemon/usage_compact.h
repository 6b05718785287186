// Keeps usage.jsonl bounded (docs/formats/usage.md): rows that are old become fewer, and every sum stays what it was.
//
// Claim  a SIGKILL or a power cut at any moment leaves the file before or the file after, and no row counts twice or not at all.
// Proof  the new file is written beside, synced, and renamed over the old one. Rows are known by their number, so that one found here
//        and in usage.open.json counts once; a merged row keeps one number of its own. So no row may be merged that usage.open.json
//        still has: the store compacts only after it has written that file, when all rows finished before are here and not there.
// Price  a merged row tells the days it covers, not the hours; in the end rows of tenants long gone become one row.
// Rows are pure values; only compact_usage_file() touches a file. Any one thread.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "wire/lines.h"

namespace bulkhead::daemon {

// The tenant of rows that no longer say whose they are: no tenant's name has a bracket.
inline constexpr const char* kUsageEarlier = "(earlier)";

// At most `most` (> 0) rows that add up to the same, oldest first: sums exactly, peaks as the highest. Of each device and tenant too,
// but for rows that had to become kUsageEarlier's. A row number that is there twice counts once, as restore() counts it. More than `most`
// only if a sum would no longer fit 64 bits.
[[nodiscard]] std::vector<wire::UsageLine> compact_usage(std::vector<wire::UsageLine> rows,
                                                         std::size_t most);

// If usage.jsonl below `directory_fd` is larger than `bytes`: with at most `rows` rows in its place. Lines that are no rows are left out.
// 0 or errno; the old file stays then.
[[nodiscard]] int compact_usage_file(int directory_fd, std::uint64_t bytes, std::size_t rows);

}  // namespace bulkhead::daemon
