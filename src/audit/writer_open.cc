// Start of the writer: recovery applied, the epoch's key found again, the boot record.
#include <cerrno>
#include <cstring>

#include "audit/recover.h"
#include "audit/writer.h"

namespace bulkhead::audit {
namespace {

struct StoredKey {
  std::uint64_t epoch = 0, index = 0;
  std::optional<PrivateKey> key;
};

// "epoch N record I\n" and a PEM block. Without a key: there is none, or it was overwritten.
StoredKey read_epoch_key(Files& files, const std::string& name) {
  StoredKey out;
  const auto text = read_small(files, name, 1u << 16);
  if (!text) return out;
  unsigned long long epoch = 0, index = 0;
  if (std::sscanf(text->c_str(), "epoch %llu record %llu\n", &epoch, &index) != 2) return out;
  out.epoch = epoch;
  out.index = index;
  out.key = PrivateKey::from_pem(KeyType::kEd25519, *text);
  return out;
}

bool is_key_of(const StoredKey& stored, const KeyRecord& record) {
  if (!stored.key || stored.epoch != record.epoch) return false;
  const PublicKey half = stored.key->public_key();
  return std::memcmp(half.bytes().data(), record.public_key.data(), 32) == 0;
}

std::string kernel_boot_id() {
  char text[64] = {};
  std::FILE* const f = std::fopen("/proc/sys/kernel/random/boot_id", "re");
  if (f == nullptr) return "unknown";
  const std::size_t n = std::fread(text, 1, sizeof text - 1, f);
  std::fclose(f);
  return {text, n > 0 && text[n - 1] == '\n' ? n - 1 : n};
}

std::string because(const char* what, int error) {
  return std::string{what} + ": " + std::strerror(error);
}
std::string because(const Status& status) {
  return std::string{status.text()} +
         (status.error_number() != 0 ? std::string{": "} + std::strerror(status.error_number())
                                     : "");
}

}  // namespace

Outcome<std::unique_ptr<Writer>> Writer::open(std::unique_ptr<Files> files,
                                              std::unique_ptr<WallClock> clock,
                                              WriterOptions options) {
  std::unique_ptr<Writer> writer{
      new Writer{std::move(files), std::move(clock), std::move(options)}};
  std::string problem = writer->recover();
  if (!problem.empty()) return Outcome<std::unique_ptr<Writer>>::because(std::move(problem));
  return writer;
}

std::string Writer::recover() {
  if (const int error = files_->lock(); error != 0)
    return error == EWOULDBLOCK ? "another process writes this log" : because("lock", error);
  const auto text = read_small(*files_, "host.pub", 1u << 16);
  if (text) {
    auto policy = parse_policy(*text);
    if (!policy.ok()) return "host.pub: " + policy.problem;
    origin_ = policy->origin;
    if (!options_.origin.empty() && options_.origin != origin_)
      return "this log's origin is " + origin_ + ", not " + options_.origin;
  } else {
    origin_ = options_.origin.empty() ? default_origin() : options_.origin;
  }
  host_ = read_host_key(*files_);
  if (!host_ && options_.make_host_key) {
    if (text) {
      if (options_.host_lines) return "host.key is missing, and host.pub is there";
    } else {
      auto made = make_host_key(*files_, origin_);
      if (!made.ok()) return made.problem;
      host_ = std::move(*made);
    }
  }
  if (!host_ && options_.host_lines) return "host.key is missing";
  if (host_ && !text) {
    const int error = replace_file(*files_, "host.pub", policy_text(origin_, *host_));
    if (error != 0) return because("host.pub", error);
  }
  if (options_.boot_id.empty()) options_.boot_id = kernel_boot_id();
  Recovered found;
  std::string problem = recover_log(*files_, origin_, found);
  if (problem.empty()) problem = apply(found);
  if (problem.empty()) problem = start(found);
  return problem;
}

// Nothing was changed until here. What is cut was never durable: it lies behind every signed size.
std::string Writer::apply(const Recovered& found) {
  for (const char* name : {"segment", "tree"}) {
    if (const int error = files_->make_directory(name); error != 0) return because(name, error);
  }
  for (const std::string& name : files_->list("segment")) {
    if (name.ends_with(".new")) static_cast<void>(files_->remove("segment/" + name));
  }
  int error = 0;
  if (!found.segments.empty()) {
    segment_.first = found.segments.back();
    segment_.made_ns = found.made_ns;
    const std::string name = segment_name(segment_.first);
    segment_.data = files_->open(name + ".data", OpenMode::kWrite, error);
    if (segment_.data == nullptr) return because("open the last segment", error);
    segment_.journal = files_->open(name + ".journal", OpenMode::kWrite, error);
    if (segment_.journal == nullptr) return because("open the last journal", error);
    error = segment_.data->truncate(segment_.data_bytes = found.data_bytes);
    if (error == 0)
      error = segment_.journal->truncate(segment_.journal_bytes = found.journal_bytes);
    if (error != 0) return because("cut the last segment", error);
    closed_.assign(found.segments.begin(), found.segments.end() - 1);
  }
  for (unsigned i = 0; i < 3; ++i) {
    tree_[i].file = files_->open(tree_name(8 * (i + 1)), OpenMode::kCreate, error);
    if (tree_[i].file == nullptr) return because("open the tree", error);
    tree_[i].hashes = found.tree_from[i];
    tree_[i].waiting = found.tree[i];
    error = tree_[i].file->truncate(32 * (found.tree_from[i]));
    if (error != 0) return because("cut the tree", error);
  }
  error = files_->sync_directory("tree");
  if (error == 0) error = files_->sync_directory(".");
  if (error != 0) return because("sync the directory", error);
  if (const auto file = files_->open("checkpoints", OpenMode::kCreate, error); file == nullptr)
    return because("checkpoints", error);
  else if ((error = file->truncate(found.checkpoints_bytes)) != 0)
    return because("cut the checkpoints", error);
  if ((error = files_->sync_directory(".")) != 0) return because("sync the directory", error);
  checkpoints_bytes_ = found.checkpoints_bytes;
  frontier_ = found.frontier;
  recovered_ = frontier_.size();
  recovered_ns_ = found.drained_ns;
  if (found.checkpoint) {
    signed_ = found.checkpoint->size;
    has_checkpoint_ = 1;
    last_signed_ = found.checkpoint_note;
  }
  return {};
}

// Which key signs from here on. `sealed`: the epoch before it has its seal. An empty epoch_key_: the host's must begin
// a new chain.
std::string Writer::take_epoch_key(const Recovered& found, bool& sealed) {
  sealed = true;
  StoredKey current = read_epoch_key(*files_, "epoch.key");
  StoredKey next = read_epoch_key(*files_, "epoch.key.next");
  if (found.key) {
    epoch_ = found.key->epoch;
    epoch_began_ns_ = found.key->utc_ns;
    if (is_key_of(current, *found.key)) {
      epoch_key_ = std::move(current.key);
    } else if (is_key_of(next, *found.key)) {
      // The crash fell between the record and the rename: seal with the old key, if that was not done.
      sealed = found.key->by_host || signed_ > found.key_index;
      if (!sealed && !current.key) return {};
      if (!sealed) {
        const Status status =
            write_checkpoint(found.key_index + 1, found.key_root, *current.key, current.epoch);
        if (!status.ok()) return because(status);
      }
      if (const Status status = adopt_next_key(); !status.ok()) return because(status);
      epoch_key_ = std::move(next.key);
    }
  } else if (current.key && current.index < recovered_) {
    // Its record lies in an older segment.
    epoch_ = current.epoch;
    epoch_key_ = std::move(current.key);
    epoch_began_ns_ = 0;  // ends at the first tick
  }
  static_cast<void>(files_->remove("epoch.key.next"));
  return {};
}

std::string Writer::start(const Recovered& found) {
  if (const Status status = sync(); !status.ok()) return because(status);
  bool sealed = true;
  const bool empty = recovered_ == 0;
  std::string problem = take_epoch_key(found, sealed);
  if (!problem.empty()) return problem;
  const bool same_boot = !found.boot_id.empty() && found.boot_id == options_.boot_id;
  BootRecord boot;
  boot.utc_ns = clock_->utc_ns();
  clock_looked_ns_ = clock_->steady_ns();
  clock_offset_ns_ = static_cast<std::int64_t>(clock_->utc_ns() - clock_looked_ns_);
  boot.boot_id = options_.boot_id;
  boot.origin = origin_;
  boot.recovered = recovered_;
  boot.cut_bytes = found.cut_bytes;
  boot.signed_size = signed_;
  boot.unknown = empty       ? "nothing: the log begins here"
                 : same_boot ? "nothing that was taken over: the same boot of the machine"
                             : "entries that were taken over in the last " +
                                   std::to_string(options_.sync_ms) +
                                   " ms before the machine stopped and were not yet synced";
  if (const Status status = record(boot_json(boot)); !status.ok()) return because(status);
  // Set back while nobody wrote: by how much at least, the last batch says.
  if (found.drained_ns > boot.utc_ns + kStepNs) {
    const std::lock_guard lock{mutex_};
    const Status status =
        put_clock_record(boot.utc_ns, -static_cast<std::int64_t>(found.drained_ns - boot.utc_ns));
    if (!status.ok()) return because(status);
  }
  if (!epoch_key_) {
    if (!host_) return "the epoch's key is lost and host.key is not here to begin a new chain";
    const std::uint64_t epoch = empty || !found.key ? 0 : found.key->epoch + 1;
    if (const Status status = begin_epoch(epoch, true); !status.ok()) return because(status);
  }
  if (const Status status = finish(); !status.ok()) return because(status);
  return {};
}

}  // namespace bulkhead::audit
