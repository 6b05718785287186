// Inside of the verifier: the leaves of the log, in order, batch by batch, from segments that may be damaged.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "audit/verify_state.h"

namespace bulkhead::audit {

// What one step gives: entries at the indices first, first + 1, ...; a damaged one is empty.
struct LeafBatch {
  std::uint64_t first = 0;
  std::vector<Bytes> entries;
  std::vector<Hash> leaves;
  bool plain = false;  // every one has 54 bytes
  // Of the journal; empty where it is damaged.
  std::vector<std::array<std::uint8_t, 2>> marks;
  bool crc_held = true;
  std::uint64_t drained_ns = 0;
  bool damaged = false;  // bytes that are not entries
};

class LeafStream {
 public:
  LeafStream(Files& files, Findings& findings) : files_(files), findings_(findings) {}
  // "" or why nothing can be read.
  std::string open();
  [[nodiscard]] std::uint64_t first() const noexcept { return first_; }
  [[nodiscard]] const Frontier& before() const noexcept { return before_; }
  // False at the end.
  bool next(LeafBatch& batch);
  // Leaves that are there and not behind a journal record: a running writer, or a crash.
  [[nodiscard]] std::uint64_t rest_bytes() const noexcept { return rest_; }

 private:
  bool open_segment();
  bool by_journal(LeafBatch& batch);
  bool by_prefixes(LeafBatch& batch);
  void hash(LeafBatch& batch, std::uint32_t count);
  void segment_ends();

  Files& files_;
  Findings& findings_;
  std::vector<std::uint64_t> segments_;
  std::size_t segment_ = 0;
  bool open_ = false, journal_good_ = false;
  std::unique_ptr<File> data_, journal_;
  std::uint64_t at_ = 0, data_size_ = 0, journal_at_ = 0, journal_size_ = 0;
  std::uint64_t index_ = 0, first_ = 0, rest_ = 0;
  Frontier before_;
  Buffer bytes_, record_;
};

}  // namespace bulkhead::audit
