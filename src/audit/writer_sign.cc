// Checkpoints and the epochs' keys. The order of steps is docs/formats/log.md's; a crash between any two is repaired by
// writer_open.cc.
#include <cstring>

#include "audit/writer.h"
#include "base/kill_point.h"

namespace bulkhead::audit {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;

}  // namespace

Status Writer::write_checkpoint(std::uint64_t size, const Hash& root, const PrivateKey& epoch_key,
                                std::uint64_t epoch) noexcept {
  Note note;
  note.text = checkpoint_text({origin_, size, root});
  if (options_.host_lines && host_) {
    note.lines.push_back(sign_line(note.text, origin_, host_->ed25519));
    note.lines.push_back(sign_line(note.text, origin_, host_->p256));
  }
  note.lines.push_back(
      sign_line(note.text, origin_ + "/epoch/" + std::to_string(epoch), epoch_key));
  for (const SignatureLine& line : note.lines) {
    if (line.signature.empty()) return {Errc::kIo, 0, "OpenSSL signed nothing"};
  }
  const std::string whole = note.whole();
  int error = 0;
  const auto file = files_->open("checkpoints", OpenMode::kCreate, error);
  if (file != nullptr) error = write_all(*file, bytes_of(whole), checkpoints_bytes_);
  BH_KILL_POINT("log.checkpoint.written");
  const bool written = error == 0;
  if (written) error = file->sync();
  BH_KILL_POINT("log.checkpoint.synced");
  const std::lock_guard lock{mutex_};
  if (error != 0 && written) {
    failed_ = "fsync of the checkpoints";
    failed_errno_ = error;
    return {Errc::kIo, error, failed_};
  }
  if (error != 0) {
    // Half a note is no note: the next try writes over it, and a reader drops it.
    if (file != nullptr) static_cast<void>(file->truncate(checkpoints_bytes_));
    return fail(error, "write to the checkpoints");
  }
  checkpoints_bytes_ += whole.size();
  signed_ = size;
  has_checkpoint_ = 1;
  last_signed_ = whole;
  show();
  return {};
}

Status Writer::store_epoch_key(const std::string& name, const PrivateKey& key, std::uint64_t epoch,
                               std::uint64_t index) noexcept {
  const std::string text =
      "epoch " + std::to_string(epoch) + " record " + std::to_string(index) + "\n" + key.pem();
  const int error = replace_file(*files_, name, text);
  const std::lock_guard lock{mutex_};
  return error == 0 ? Status{} : fail(error, "write the epoch's key");
}

// epoch.key.next becomes epoch.key; the old key's bytes are overwritten where they lay.
Status Writer::adopt_next_key() noexcept {
  int error = 0;
  const auto old = files_->open("epoch.key", OpenMode::kWrite, error);
  error = files_->rename("epoch.key.next", "epoch.key");
  if (error == 0) error = files_->sync_directory(".");
  BH_KILL_POINT("log.key.renamed");
  if (old != nullptr) {
    const Buffer zeros(old->size(), 0);
    static_cast<void>(write_all(*old, zeros, 0));
    static_cast<void>(old->sync());
  }
  BH_KILL_POINT("log.key.wiped");
  const std::lock_guard lock{mutex_};
  return error == 0 ? Status{} : fail(error, "change the epoch's key");
}

// One step after another, each of them kept: where there is no room the next tick goes on with the same one. While a
// change is pending nothing but its seal is signed.
Status Writer::change_epoch() noexcept {
  if (!pending_) return {Errc::kInvalid, 0, "no epoch begins"};
  Pending& p = *pending_;
  if (!p.stored) {
    const Status status = store_epoch_key("epoch.key.next", p.key, p.record.epoch, size());
    BH_KILL_POINT("log.key.next");
    if (!status.ok()) return status;
    p.stored = true;
  }
  if (p.size == 0) {
    const std::lock_guard lock{mutex_};
    // The key's time was taken before: whatever step it saw is announced before it.
    if (const Status status = note_clock(); !status.ok()) return status;
    if (const Status status = append_record(key_json(p.record)); !status.ok()) return status;
    p.size = frontier_.size();
    p.root = frontier_.root();
    BH_KILL_POINT("log.key.appended");
  }
  if (durable() < p.size) {
    const std::lock_guard lock{mutex_};
    if (const Status status = sync_locked(); !status.ok()) return status;
  }
  BH_KILL_POINT("log.key.durable");
  if (!p.sealed && !p.record.by_host) {
    const Status status = write_checkpoint(p.size, p.root, *epoch_key_, epoch_);
    if (!status.ok()) return status;
  }
  p.sealed = true;
  BH_KILL_POINT("log.key.sealed");
  if (const Status status = adopt_next_key(); !status.ok()) return status;
  epoch_key_ = std::move(p.key);
  epoch_ = p.record.epoch;
  epoch_began_ns_ = p.record.utc_ns;
  pending_.reset();
  return {};
}

Status Writer::begin_epoch(std::uint64_t epoch, bool by_host) noexcept {
  auto next = PrivateKey::generate(KeyType::kEd25519);
  if (!next) return {Errc::kIo, 0, "OpenSSL made no key"};
  KeyRecord record;
  record.epoch = epoch;
  record.utc_ns = clock_->utc_ns();
  record.length_s = options_.epoch_s;
  record.by_host = by_host;
  const PublicKey half = next->public_key();
  std::memcpy(record.public_key.data(), half.bytes().data(), 32);
  const PrivateKey& signer = by_host ? host_->ed25519 : *epoch_key_;
  record.signature = signer.sign(bytes_of(key_signed_text(record, origin_)));
  pending_.emplace(Pending{std::move(*next), std::move(record)});
  return change_epoch();
}

Status Writer::tick() noexcept {
  const std::lock_guard signing{sign_mutex_};
  {
    const std::lock_guard lock{mutex_};
    if (failed_ != nullptr) return {Errc::kIo, failed_errno_, failed_};
  }
  const std::uint64_t now = clock_->utc_ns();
  // A clock that was set back ends the epoch too: its length may not depend on who sets the clock.
  const bool over = now >= epoch_began_ns_ + options_.epoch_s * kSecond || now < epoch_began_ns_;
  if (pending_ || over) {
    const Status status = pending_ ? change_epoch() : begin_epoch(epoch_ + 1, false);
    if (!status.ok()) return status;
  }
  std::uint64_t size = 0;
  Hash root{};
  {
    const std::lock_guard lock{mutex_};
    if (durable_ == signed_ && has_checkpoint_ != 0) return {};
    size = durable_;
    root = durable_root_;
  }
  return write_checkpoint(size, root, *epoch_key_, epoch_);
}

Status Writer::finish() noexcept {
  if (const Status status = sync(); !status.ok()) return status;
  return tick();
}

}  // namespace bulkhead::audit
