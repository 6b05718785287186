// Static MPS partitions: how many chunks a share comes to, and what a control daemon's answers say. Pure; docs/spatial.md "Partitions"
// has the formats, which of them are documented, and where the others were seen. Any thread.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bulkhead::policy {

// Chunks that `x100` hundredths of a percent of `chunks` come to, rounded down: shares that sum to 100 % fit side by side.
[[nodiscard]] constexpr std::uint32_t chunks_of_share(std::uint32_t x100,
                                                      std::uint32_t chunks) noexcept {
  return static_cast<std::uint32_t>(std::uint64_t{chunks} * (x100 < 10'000 ? x100 : 10'000) /
                                    10'000);
}
// The smallest share that comes to `of` chunks, hundredths of a percent; 0: there are none.
[[nodiscard]] constexpr std::uint32_t share_of_chunks_x100(std::uint32_t of,
                                                           std::uint32_t chunks) noexcept {
  return chunks == 0
             ? 0
             : static_cast<std::uint32_t>((std::uint64_t{of} * 10'000 + chunks - 1) / chunks);
}

inline constexpr unsigned kMostChunks =
    1024;  // more than any GPU has: a number above is not understood
inline constexpr std::size_t kMostPartitionId = 64;  // characters

struct PartitionRow {
  std::string id;  // what is behind "UUID/"
  std::uint32_t chunks = 0, sms = 0;
  bool in_use = false;
};
struct PartitionedGpu {
  std::string gpu;  // the part of its UUID that is shown: "GPU-89"
  std::uint32_t free_chunks = 0, used_chunks = 0, free_sms = 0, used_sms = 0;
  std::vector<PartitionRow> partitions;
};
// What `lspart` said. With a problem there are no GPUs: nothing of an answer is used unless all of it is understood.
struct PartitionTable {
  std::string problem;  // one line, "": none
  std::vector<PartitionedGpu> gpus;
  // The GPU of this whole UUID ("GPU-..."); null: no row is its, or more than one could be.
  [[nodiscard]] const PartitionedGpu* of(std::string_view uuid) const;
};
[[nodiscard]] PartitionTable parse_lspart(std::string_view text);
[[nodiscard]] const PartitionRow* partition_of(const PartitionedGpu& gpu, std::string_view id);

// What `sm_partition add UUID ...` said.
struct AddedPartition {
  std::string id;       // "": there is none
  std::string problem;  // then why, in its own words
};
[[nodiscard]] AddedPartition parse_added(std::string_view text, std::string_view uuid);

// base64, at most kMostPartitionId characters.
[[nodiscard]] bool valid_partition_id(std::string_view id) noexcept;
// The first line that is not empty, printable and at most 120 characters, for a message; "nothing".
[[nodiscard]] std::string quoted_line(std::string_view text);

}  // namespace bulkhead::policy
