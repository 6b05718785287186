#include "audit/verify.h"

#include <algorithm>

#include "audit/verify_segments.h"
#include "audit/verify_state.h"

namespace bulkhead::audit {

const char* check_name(Check check) noexcept {
  static constexpr const char* kNames[] = {
      "segments", "entry-form", "record-form", "journal",   "tree-files",      "checkpoint-form",
      "order",    "size",       "root",        "signature", "epoch-signature", "key-chain",
      "seal",     "epoch-time", "session",     "sequence",  "session-end",     "gap",
      "clock",    "grant",      "token",       "boot",      "trusted",         "witness"};
  static_assert(std::size(kNames) == static_cast<std::size_t>(Check::kCount));
  return check < Check::kCount ? kNames[static_cast<std::size_t>(check)] : "unknown";
}

std::string finding_text(const Finding& f) {
  std::string out = std::string{check_name(f.check)} + ": index " + std::to_string(f.index);
  if (f.has_lane) {
    out += " (session " + std::to_string(f.session) + ", lane " + std::to_string(f.lane) +
           ", sequence " + std::to_string(f.sequence) + ")";
  }
  return out + ": " + f.text;
}

void Findings::add(Finding finding) {
  if (!on(finding.check)) return;
  ++report_.findings_total;
  // The first ones by index are kept, in order.
  auto& all = report_.findings;
  const auto at =
      std::upper_bound(all.begin(), all.end(), finding,
                       [](const Finding& a, const Finding& b) { return a.index < b.index; });
  all.insert(at, std::move(finding));
  if (all.size() > options_.most_findings) all.pop_back();
}

namespace {

struct TreeFile {
  std::unique_ptr<File> file;
  std::uint64_t next = 0, size = 0;
  Buffer buffer;
  std::uint64_t buffer_from = 0;
  bool wrong = false;

  // Null: the file is shorter.
  const std::uint8_t* hash(std::uint64_t n) {
    if (n >= size) return nullptr;
    if (n < buffer_from || n >= buffer_from + buffer.size() / 32) {
      const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(2048, size - n));
      buffer.resize(32 * count);
      buffer_from = n;
      if (read_exactly(*file, buffer.data(), buffer.size(), 32 * n) != 0) {
        size = 0;
        return nullptr;
      }
    }
    return buffer.data() + 32 * (n - buffer_from);
  }
};

// A place where the root of the entries must be one that somebody signed.
struct Pin {
  Note note;
  Checkpoint checkpoint;
};

class Verifier {
 public:
  Verifier(Files& files, const VerifyOptions& options)
      : files_(files),
        options_(options),
        findings_(options, report_),
        chain_(options, findings_),
        ledger_(options, report_, findings_),
        leaves_(files, findings_) {}
  VerifyReport run();

 private:
  void open_trees();
  void next_pin(NoteStream* stream, const char* file, std::optional<Pin>& pin);
  void take(LeafBatch& batch);
  void take_entries(const LeafBatch& batch, std::size_t from, std::size_t to);
  void take_record(Bytes entry, std::uint64_t index);
  void append(LeafBatch& batch, std::size_t from, std::size_t to);
  void note_marks(const LeafBatch& batch, std::size_t i);
  void pins_here();
  void seal_due();
  void check_checkpoint(const Pin& pin);
  void check_host_lines(const Pin& pin);
  void check_witnessed(const Pin& pin);
  void check_trusted();
  bool check_root(const Checkpoint& checkpoint, Check check, const std::string& what);
  void wrong_root(const Checkpoint& checkpoint, const std::string& what);
  void end();

  Files& files_;
  const VerifyOptions& options_;
  VerifyReport report_;
  Findings findings_;
  KeyChain chain_;
  Ledger ledger_;
  LeafStream leaves_;
  Frontier frontier_;
  TreeFile tree_[3];
  std::unique_ptr<NoteStream> checkpoints_, witnessed_;
  std::optional<Pin> checkpoint_, cosigned_, trusted_;
  std::uint64_t last_signed_ = 0, retained_from_ = 0;
  bool any_signed_ = false, root_wrong_ = false;
  std::uint64_t seal_size_ = 0;  // a checkpoint of this size is due
  // Since the last signed size: the first entry that differs from its mark, the first bundle that differs from tree/1.
  std::optional<std::uint64_t> suspect_;
};

void Verifier::open_trees() {
  for (unsigned i = 0; i < 3; ++i) {
    int error = 0;
    tree_[i].file = files_.open(tree_name(8 * (i + 1)), OpenMode::kRead, error);
    tree_[i].size = tree_[i].file == nullptr ? 0 : tree_[i].file->size() / 32;
    tree_[i].next = leaves_.first() >> (8 * (i + 1));
  }
}

// The next checkpoint of a file that can be read; those of another origin are findings.
void Verifier::next_pin(NoteStream* stream, const char* file, std::optional<Pin>& pin) {
  pin.reset();
  while (stream != nullptr) {
    std::string problem;
    auto note = stream->next(problem);
    if (!note) {
      if (!problem.empty())
        findings_.remark(std::string{file} + " ends in half a checkpoint, as after a crash");
      return;
    }
    const auto checkpoint = parse_checkpoint(note->text);
    // The epoch's line comes last: without it the file was torn between two lines.
    if (stream == checkpoints_.get() && stream->at_end() &&
        !note->lines.back().name.starts_with(options_.policy.origin + "/epoch/")) {
      findings_.remark(std::string{file} + " ends in half a checkpoint, as after a crash");
      return;
    }
    if (checkpoint && checkpoint->origin == options_.policy.origin) {
      pin = Pin{std::move(*note), *checkpoint};
      return;
    }
    findings_.add(
        Check::kCheckpointForm, frontier_.size(),
        std::string{file} + " has a note that is no checkpoint of " + options_.policy.origin);
  }
}

void Verifier::note_marks(const LeafBatch& batch, std::size_t i) {
  if (suspect_ || batch.marks.empty() ||
      (batch.leaves[i][0] == batch.marks[i][0] && batch.leaves[i][1] == batch.marks[i][1]))
    return;
  suspect_ = batch.first + i;
}

void Verifier::append(LeafBatch& batch, std::size_t from, std::size_t to) {
  for (std::size_t i = from; i < to && !batch.crc_held; ++i) note_marks(batch, i);
  // Used up where they lie: nobody looks at these hashes again.
  frontier_.append(
      std::span{batch.leaves}.subspan(from, to - from), [this](unsigned level, const Hash& hash) {
        TreeFile& tree = tree_[level / 8 - 1];
        const std::uint64_t n = tree.next++;
        const std::uint8_t* const stored = tree.hash(n);
        if (stored == nullptr || tree.wrong || std::equal(hash.begin(), hash.end(), stored)) return;
        tree.wrong = true;
        findings_.add(Check::kTreeFiles, n << level,
                      tree_name(level) + " has another hash for the entries from here to index " +
                          std::to_string(((n + 1) << level) - 1));
        if (!suspect_) suspect_ = n << level;
      });
}

void Verifier::take_record(Bytes entry, std::uint64_t index) {
  const std::string_view text{reinterpret_cast<const char*>(entry.data()) + 1, entry.size() - 1};
  std::string problem;
  const auto record = parse_record(text, options_.policy.origin, problem);
  if (!record) {
    findings_.add(Check::kRecordForm, index, "a record that cannot be read: " + problem);
    return;
  }
  if (const auto* key = std::get_if<KeyRecord>(&*record)) {
    ledger_.epoch_begins(*key, index);
    const bool seal = chain_.take(*key, index);
    ++report_.epochs;
    if (seal) seal_size_ = index + 1;
  }
  if (const auto* retained = std::get_if<RetainedRecord>(&*record))
    retained_from_ = std::max(retained_from_, retained->from);
  ledger_.record(*record, index);
}

void Verifier::take_entries(const LeafBatch& batch, std::size_t from, std::size_t to) {
  for (std::size_t i = from; i < to; ++i) {
    const Bytes entry = batch.entries[i];
    if (entry.empty()) continue;
    if (!batch.plain && is_record(entry)) {
      take_record(entry, batch.first + i);
    } else {
      // 54 bytes, checked by the stream, and a type without alignment.
      ledger_.entry(*reinterpret_cast<const abi::AuditEntry*>(entry.data()), batch.first + i);
    }
  }
}

// Cut at every size that somebody signed, so that the root is compared there.
void Verifier::take(LeafBatch& batch) {
  std::size_t from = 0;
  const std::size_t count = batch.leaves.size();
  while (from < count) {
    const std::uint64_t at = batch.first + from;
    std::size_t to = count;
    for (const std::optional<Pin>* pin : {&checkpoint_, &cosigned_, &trusted_}) {
      if (*pin && (*pin)->checkpoint.size > at)
        to = std::min<std::size_t>(to, (*pin)->checkpoint.size - batch.first);
    }
    // A key record decides whose signature is due right behind it.
    for (std::size_t i = from; !batch.plain && i < to; ++i) {
      if (is_record(batch.entries[i])) to = std::min(to, i + 1);
    }
    append(batch, from, to);
    take_entries(batch, from, to);
    pins_here();
    seal_due();
    from = to;
  }
}

void Verifier::seal_due() {
  if (seal_size_ == 0 || frontier_.size() < seal_size_) return;
  if (last_signed_ != seal_size_ && (frontier_.size() > seal_size_ || checkpoint_)) {
    findings_.add(Check::kSeal, seal_size_ - 1,
                  "the epoch that ended here has no seal: the checkpoint of size " +
                      std::to_string(seal_size_) + " is missing");
    seal_size_ = 0;
  }
  if (last_signed_ == seal_size_) seal_size_ = 0;
}

// The signature proves a range wrong; what the entries themselves show in it is the best word on which it is.
void Verifier::wrong_root(const Checkpoint& checkpoint, const std::string& what) {
  for (const Finding& f : report_.findings) {
    if (f.index < last_signed_ || f.index >= checkpoint.size) continue;
    suspect_ = std::min(suspect_.value_or(f.index), f.index);
  }
  const std::uint64_t at = suspect_.value_or(last_signed_);
  findings_.add(Check::kRoot, at,
                what + " of size " + std::to_string(checkpoint.size) +
                    " signs another root: entries from index " + std::to_string(last_signed_) +
                    " to " + std::to_string(checkpoint.size - 1) +
                    " are not all those that were signed");
}

bool Verifier::check_root(const Checkpoint& checkpoint, Check check, const std::string& what) {
  if (frontier_.root() == checkpoint.root) return true;
  if (check == Check::kRoot) {
    // Every later root is wrong as well: the first says where.
    if (!root_wrong_) wrong_root(checkpoint, what);
    root_wrong_ = true;
    return false;
  }
  findings_.add(check, checkpoint.size,
                what + " of size " + std::to_string(checkpoint.size) +
                    " is of another log: this one was forked or changed");
  return false;
}

void Verifier::check_checkpoint(const Pin& pin) {
  const std::uint64_t size = pin.checkpoint.size;
  ++report_.checkpoints;
  check_root(pin.checkpoint, Check::kRoot, "the checkpoint");
  check_host_lines(pin);
  chain_.check_epoch_line(pin.note, size, options_.policy.origin);
  last_signed_ = size;
  any_signed_ = true;
  report_.signed_size = size;
  if (!root_wrong_) suspect_.reset();
}

void Verifier::check_host_lines(const Pin& pin) {
  const std::uint64_t size = pin.checkpoint.size;
  for (const VerifierKey& key : options_.policy.log) {
    const LineState state = check_note(pin.note, key);
    if (state == LineState::kGood || (state == LineState::kOther && options_.policy.epochs_only))
      continue;
    findings_.add(
        Check::kSignature, size,
        "the checkpoint of size " + std::to_string(size) +
            (state == LineState::kBad ? " has a wrong signature of " : " has no signature of ") +
            (key.type == LineType::kEcdsa ? "the host's P-256 key" : "the host's Ed25519 key"));
  }
}

void Verifier::check_witnessed(const Pin& pin) {
  std::size_t good = 0;
  for (const VerifierKey& key : options_.policy.witness) {
    const LineState state = check_note(pin.note, key);
    good += state == LineState::kGood;
    if (state == LineState::kBad)
      findings_.add(Check::kWitness, pin.checkpoint.size, "a wrong cosignature of " + key.name);
  }
  const bool same = check_root(pin.checkpoint, Check::kWitness, "the witnessed checkpoint");
  if (same && good >= options_.policy.quorum && good > 0)
    report_.witnessed_size = pin.checkpoint.size;
}

// Everything that was signed at the size that is reached now.
void Verifier::pins_here() {
  const std::uint64_t size = frontier_.size();
  while (checkpoint_ && checkpoint_->checkpoint.size <= size) {
    if (checkpoint_->checkpoint.size == size) {
      check_checkpoint(*checkpoint_);
    } else if (checkpoint_->checkpoint.size < leaves_.first()) {
      ++report_.checkpoints;  // of segments that were removed
      check_host_lines(*checkpoint_);
    } else {
      findings_.add(Check::kOrder, checkpoint_->checkpoint.size,
                    "a checkpoint of size " + std::to_string(checkpoint_->checkpoint.size) +
                        " comes after one of size " + std::to_string(last_signed_));
    }
    next_pin(checkpoints_.get(), "checkpoints", checkpoint_);
  }
  while (cosigned_ && cosigned_->checkpoint.size <= size) {
    if (cosigned_->checkpoint.size == size) check_witnessed(*cosigned_);
    next_pin(witnessed_.get(), "witnessed", cosigned_);
  }
  if (trusted_ && trusted_->checkpoint.size == size) {
    check_root(trusted_->checkpoint, Check::kTrusted, "the auditor's checkpoint");
    trusted_.reset();
  }
}

void Verifier::check_trusted() {
  if (options_.trusted.empty()) return;
  std::size_t used = 0;
  auto note = parse_note(options_.trusted, used);
  const auto checkpoint = note ? parse_checkpoint(note->text) : std::nullopt;
  const VerifierKey* const host = options_.policy.host();
  if (!checkpoint || host == nullptr || checkpoint->origin != options_.policy.origin ||
      check_note(*note, *host) != LineState::kGood) {
    report_.could_not = "the trusted checkpoint is not one that the log's key signed";
    return;
  }
  trusted_ = Pin{std::move(*note), *checkpoint};
}

void Verifier::end() {
  report_.first = leaves_.first();
  report_.size = frontier_.size();
  if (leaves_.first() > retained_from_)
    findings_.add(Check::kSegments, 0,
                  "entries before index " + std::to_string(leaves_.first()) +
                      " are missing, and no record says that they were removed");
  for (std::optional<Pin>* pin : {&checkpoint_, &cosigned_, &trusted_}) {
    if (!*pin) continue;
    const bool kept = pin == &trusted_;
    findings_.add(kept                ? Check::kTrusted
                  : pin == &cosigned_ ? Check::kWitness
                                      : Check::kSize,
                  frontier_.size(),
                  std::to_string((*pin)->checkpoint.size) + " entries were signed" +
                      (kept ? " in the auditor's checkpoint" : "") + ", " +
                      std::to_string(frontier_.size()) +
                      " are there: the first missing one is named");
  }
  if (!any_signed_)
    findings_.add(Check::kSize, frontier_.size(), "no checkpoint covers what is there");
  if (report_.witnessed_size == 0 && options_.policy.quorum > 0)
    findings_.add(Check::kWitness, report_.size,
                  "no checkpoint has the cosignatures that the policy wants");
  if (report_.size > report_.signed_size && any_signed_)
    findings_.remark(std::to_string(report_.size - report_.signed_size) +
                     " entries at the end are not signed yet");
  if (leaves_.rest_bytes() > 0)
    findings_.remark(std::to_string(leaves_.rest_bytes()) +
                     " bytes behind the last batch: a crash, or a writer at work");
  ledger_.finish();
}

VerifyReport Verifier::run() {
  report_.could_not = leaves_.open();
  if (report_.could_not.empty()) check_trusted();
  int error = 0;
  auto file = files_.open("checkpoints", OpenMode::kRead, error);
  if (report_.could_not.empty() && file == nullptr)
    report_.could_not = "checkpoints cannot be read";
  if (!report_.could_not.empty()) return std::move(report_);
  checkpoints_ = std::make_unique<NoteStream>(std::move(file));
  file = files_.open("witnessed", OpenMode::kRead, error);
  if (file != nullptr) witnessed_ = std::make_unique<NoteStream>(std::move(file));
  frontier_ = leaves_.before();
  if (leaves_.first() > 0) {
    ledger_.begin_in_the_middle();
    chain_.begin_in_the_middle();
  }
  open_trees();
  next_pin(checkpoints_.get(), "checkpoints", checkpoint_);
  next_pin(witnessed_.get(), "witnessed", cosigned_);
  pins_here();
  LeafBatch batch;
  while (leaves_.next(batch)) {
    // Entries that are missing as a whole: the tree cannot go on, the rest is still looked at.
    if (batch.first != frontier_.size() && !root_wrong_) root_wrong_ = true;
    take(batch);
  }
  end();
  return std::move(report_);
}

}  // namespace

VerifyReport verify_log(Files& files, const VerifyOptions& options) {
  return Verifier{files, options}.run();
}

}  // namespace bulkhead::audit
