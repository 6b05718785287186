#include "hook/audit_count.h"

#include <cstring>

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

shm::AuditClass& class_of(shm::AuditCount& books, const AuditEvent& event) noexcept {
  const bool map = event.kind == abi::EntryKind::kMap;
  return books.classes[map ? shm::kMapClass : static_cast<unsigned>(event.direction) & 7];
}

// Last of an event's counts: whoever reads it finds the others.
void count_call(shm::AuditClass& c, std::uint64_t bytes) noexcept {
  c.bytes.fetch_add(bytes, kRelaxed);               // ordered by the next
  c.calls.fetch_add(1, std::memory_order_release);  // pairs with read_audit_count()
}

// Names that were asked for before there was a region; later ones go there at once.
constinit shm::AuditCount early{};

bool same(const std::atomic<std::uint64_t> (&at)[shm::kUnresolvedWords],
          const std::uint64_t (&words)[shm::kUnresolvedWords]) noexcept {
  bool equal = true;
  for (unsigned w = 0; w < shm::kUnresolvedWords; ++w) {
    // acquire pairs with put_name(): the first word is stored last
    equal = at[w].load(std::memory_order_acquire) == words[w] && equal;
  }
  return equal;
}

// Two at once may put one name twice, or one over another: the count beside is what is right.
void put_name(shm::AuditCount& books,
              const std::uint64_t (&words)[shm::kUnresolvedWords]) noexcept {
  for (auto& at : books.names) {
    if (same(at, words)) return;
    if (at[0].load(kRelaxed) != 0) continue;  // another's; a name is kept, not ordered
    for (unsigned w = shm::kUnresolvedWords - 1; w > 0; --w) at[w].store(words[w], kRelaxed);
    at[0].store(words[0], std::memory_order_release);  // pairs with read_audit_count()
    return;
  }
}

}  // namespace

void count_logged(const AuditEvent& event, abi::Decision decision) noexcept {
  shm::AuditCount* const books = audit_books();
  if (books == nullptr) return;
  shm::AuditClass& c = class_of(*books, event);
  // relaxed: sums, ordered by count_call()
  if (decision == abi::Decision::kDenied) [[unlikely]]
    c.refused.fetch_add(1, kRelaxed);
  if (decision == abi::Decision::kObserved) c.observed.fetch_add(1, kRelaxed);
  count_call(c, event.bytes);
}

[[gnu::cold]] void count_unlogged(const AuditEvent& event, CUresult result,
                                  bool has_lane) noexcept {
  shm::AuditCount* const books = audit_books();
  if (books == nullptr) return;
  shm::AuditClass& c = class_of(*books, event);
  // relaxed: sums, ordered by count_call()
  if (result != CUDA_SUCCESS) {
    c.refused.fetch_add(1, kRelaxed);
    c.unlogged_refused_bytes.fetch_add(event.bytes, kRelaxed);
    c.unlogged_refused.fetch_add(1, kRelaxed);
  } else {
    shm::AuditSums& s = books->sums;
    (has_lane ? s.no_room_bytes : s.no_lane_bytes).fetch_add(event.bytes, kRelaxed);
    (has_lane ? s.no_room_calls : s.no_lane_calls).fetch_add(1, kRelaxed);
    c.missed_bytes.fetch_add(event.bytes, kRelaxed);
    c.missed_calls.fetch_add(1, kRelaxed);
  }
  count_call(c, event.bytes);
}

void count_held(std::uint64_t ns, std::uint32_t weight) noexcept {
  if (shm::AuditCount* const books = audit_books(); books != nullptr)
    books->held[shm::held_bucket(ns)].fetch_add(weight, kRelaxed);  // a statistic
}

void note_unresolved(const char* name) noexcept {
  std::uint64_t words[shm::kUnresolvedWords] = {};
  char text[sizeof words] = {};
  for (std::size_t i = 0; i + 1 < sizeof text && name[i] != '\0'; ++i) text[i] = name[i];
  std::memcpy(words, text, sizeof words);
  shm::AuditCount* books = audit_books();
  if (books == nullptr) books = &early;
  put_name(*books, words);
  books->sums.unresolved.fetch_add(1, kRelaxed);  // a statistic
}

void note_export_table() noexcept {
  shm::AuditCount* books = audit_books();
  if (books == nullptr) books = &early;
  books->sums.export_tables.fetch_add(1, kRelaxed);  // a statistic
}

// Under `binding`, before the mode says that the process is bound.
void audit_names_bound() noexcept {
  shm::AuditCount& books = process.region->header.audit;
  // relaxed: statistics
  books.sums.unresolved.fetch_add(early.sums.unresolved.exchange(0, kRelaxed), kRelaxed);
  books.sums.export_tables.fetch_add(early.sums.export_tables.exchange(0, kRelaxed), kRelaxed);
  for (auto& at : early.names) {
    std::uint64_t words[shm::kUnresolvedWords];
    for (unsigned w = 0; w < shm::kUnresolvedWords; ++w) {
      // acquire pairs with put_name(): the first word is stored last
      words[w] = at[w].load(std::memory_order_acquire);
    }
    if (words[0] != 0) put_name(books, words);
  }
}

}  // namespace bulkhead::hook
