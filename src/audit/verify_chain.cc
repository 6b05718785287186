// Checkpoints as a stream, and the chain of the epochs' keys.
#include <algorithm>

#include "audit/verify_state.h"

namespace bulkhead::audit {
namespace {

constexpr std::size_t kChunk = 1u << 16, kMostNote = 1u << 17;

PublicKey ed25519(const Hash& key, bool& ok) {
  auto made = PublicKey::of(KeyType::kEd25519, key);
  ok = made.has_value();
  // Every 32 bytes are accepted by OpenSSL as a public key; a wrong point fails each signature instead.
  return ok ? std::move(*made) : *PublicKey::of(KeyType::kEd25519, Hash{});
}

}  // namespace

bool NoteStream::fill() {
  buffer_.erase(0, at_);
  at_ = 0;
  const std::size_t old = buffer_.size();
  buffer_.resize(old + kChunk);
  const long n = file_->read_at(buffer_.data() + old, kChunk, offset_);
  buffer_.resize(old + static_cast<std::size_t>(std::max(n, 0L)));
  offset_ += static_cast<std::uint64_t>(std::max(n, 0L));
  return n > 0;
}

std::optional<Note> NoteStream::next(std::string& problem) {
  problem.clear();
  // A note ends where a line begins that is no signature's: so at least one more byte, or the end, must be seen.
  for (;;) {
    std::size_t used = 0;
    auto note = parse_note(std::string_view{buffer_}.substr(at_), used);
    const bool whole = note && at_ + used < buffer_.size();
    if (!whole && buffer_.size() - at_ < kMostNote && fill()) continue;
    if (note) at_ += used;
    if (!note && at_ < buffer_.size()) problem = "what is not a signed note";
    return note;
  }
}

bool KeyChain::take(const KeyRecord& record, std::uint64_t index) {
  const std::string which = "the key of epoch " + std::to_string(record.epoch);
  const bool first = epochs_ == 0;
  ++epochs_;
  if (first && !partial_ && !record.by_host)
    findings_.add(Check::kKeyChain, index, which + " begins the log and is not the host's word");
  if (!first && record.epoch != now_.epoch + 1)
    findings_.add(Check::kKeyChain, index,
                  which + " follows epoch " + std::to_string(now_.epoch) +
                      ": epochs are missing between them");
  bool ok = true;
  const VerifierKey* const host = options_.policy.host();
  const PublicKey* const signer =
      record.by_host ? (host != nullptr ? &host->key : nullptr) : (now_.key ? &*now_.key : nullptr);
  if (signer != nullptr && !signer->verify(bytes_of(record.signed_text), record.signature))
    findings_.add(Check::kKeyChain, index,
                  which + " is not certified by " +
                      (record.by_host ? "the host's key" : "the key of the epoch before"));
  if (signer == nullptr)
    findings_.remark("the chain of keys begins at epoch " + std::to_string(record.epoch) +
                     ": what certified it was removed");
  if (record.by_host && !first)
    findings_.remark("index " + std::to_string(index) +
                     ": the host's key began a new chain of keys at epoch " +
                     std::to_string(record.epoch));
  before_ = std::move(now_);
  now_ = Key{record.epoch, index, record.utc_ns, record.by_host, ed25519(record.public_key, ok)};
  if (!ok) findings_.add(Check::kKeyChain, index, which + " is not a key");
  return !first && !record.by_host;
}

void KeyChain::check_epoch_line(const Note& note, std::uint64_t size, const std::string& origin) {
  // I1: the seal of an epoch, just behind the next one's record, is still the old epoch's.
  const bool seal = now_.key && !now_.by_host && size == now_.index + 1;
  const Key& due = seal ? before_ : now_;
  if (!due.key) {
    if (!partial_)
      findings_.add(
          Check::kEpochSignature, size,
          "the checkpoint of size " + std::to_string(size) + " comes before any epoch's key");
    return;  // a log whose beginning was removed: the seal's key is not here
  }
  const std::string name = origin + "/epoch/" + std::to_string(due.epoch);
  const VerifierKey key = verifier_key(name, LineType::kEd25519, *due.key);
  if (check_note(note, key) == LineState::kGood) return;
  std::string by;
  for (const SignatureLine& line : note.lines) {
    if (line.name.starts_with(origin + "/epoch/")) by = " (it bears a line of " + line.name + ")";
  }
  findings_.add(Check::kEpochSignature, size,
                "the checkpoint of size " + std::to_string(size) +
                    " has no good signature of epoch " + std::to_string(due.epoch) + by);
}

}  // namespace bulkhead::audit
