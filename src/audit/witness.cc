#include "audit/witness.h"

#include <algorithm>
#include <cstring>

#include "audit/witness_socket.h"

namespace bulkhead::audit {
namespace {

constexpr std::size_t kMaxProof = 63;

std::string state_name(const std::string& origin) {
  return "kept-" + hex(Bytes{sha256(bytes_of(origin))}.first(8));
}

struct Request {
  std::uint64_t old_size = 0;
  std::vector<Hash> proof;
  std::string_view note;
};

// "old N\n", proof lines, an empty line, the checkpoint.
bool parse_request(std::string_view body, Request& out) {
  const auto take_line = [&](std::string_view& line) {
    const std::size_t end = body.find('\n');
    if (end == std::string_view::npos) return false;
    line = body.substr(0, end);
    body.remove_prefix(end + 1);
    return true;
  };
  std::string_view line;
  if (!take_line(line) || !line.starts_with("old ")) return false;
  const auto size = parse_decimal(line.substr(4));
  if (!size) return false;
  out.old_size = *size;
  while (take_line(line) && !line.empty()) {
    const auto hash = hash_from_base64(line);
    if (!hash || out.proof.size() == kMaxProof) return false;
    out.proof.push_back(*hash);
  }
  out.note = body;
  return !body.empty();
}

}  // namespace

Witness::Witness(Files& files, std::string name, PrivateKey key, std::vector<VerifierKey> logs)
    : files_(files), name_(std::move(name)), key_(std::move(key)), logs_(std::move(logs)) {}

std::string Witness::vkey() const {
  return vkey_text(verifier_key(name_, LineType::kCosignature, key_.public_key()));
}

std::string Witness::kept(const std::string& origin) {
  return read_small(files_, state_name(origin), 1u << 20).value_or("");
}

WitnessAnswer Witness::add_checkpoint(std::string_view body, std::uint64_t unix_s) {
  Request request;
  if (!parse_request(body, request)) return {400, "malformed request\n"};
  std::size_t used = 0;
  auto note = parse_note(request.note, used);
  const auto checkpoint = note ? parse_checkpoint(note->text) : std::nullopt;
  if (!checkpoint || used != request.note.size()) return {400, "malformed checkpoint\n"};
  bool known = false, good = false;
  for (const VerifierKey& key : logs_) {
    if (key.name != checkpoint->origin) continue;
    known = true;
    const LineState state = check_note(*note, key);
    if (state == LineState::kBad) return {403, "a signature is wrong\n"};
    good |= state == LineState::kGood;
  }
  if (!known) return {404, "unknown origin\n"};
  if (!good) return {403, "no signature of a known key\n"};
  if (request.old_size > checkpoint->size) return {400, "the old size is the larger one\n"};
  Checkpoint before{checkpoint->origin, 0, sha256({})};
  const std::string state = kept(checkpoint->origin);
  if (!state.empty()) {
    const auto last = parse_checkpoint(state);
    if (!last || last->origin != checkpoint->origin)
      return {500, "what was kept of this log cannot be read\n"};
    before = *last;
  } else {
    int error = 0;  // "cannot be read" is not "never seen"
    if (files_.open(state_name(checkpoint->origin), OpenMode::kRead, error) != nullptr ||
        error != ENOENT)
      return {500, "what was kept of this log cannot be read\n"};
  }
  if (request.old_size != before.size) return {409, std::to_string(before.size) + "\n"};
  if (before.size == checkpoint->size && before.root != checkpoint->root)
    return {409, std::to_string(before.size) + "\n"};
  if (!check_consistency(before.size, checkpoint->size, before.root, checkpoint->root,
                         request.proof))
    return {422, "the consistency proof fails\n"};
  // Kept before it is said.
  if (replace_file(files_, state_name(checkpoint->origin), note->text) != 0)
    return {500, "cannot keep it\n"};
  return {200, signature_text(cosign_line(note->text, name_, key_, unix_s))};
}

std::string ask_witness(LogReader& log, const std::string& socket_path, Note& note,
                        const Patience& patience) {
  const auto checkpoint = parse_checkpoint(note.text);
  if (!checkpoint) return "not a checkpoint";
  Note plain = note;
  std::uint64_t old_size = 0;
  // The first answer says what the witness has; the second follows it, unless somebody else asks meanwhile.
  for (int round = 0; round < 3; ++round) {
    const auto path = consistency_proof(log.hashes(), old_size, checkpoint->size);
    if (!path) return "no proof from size " + std::to_string(old_size) + " can be made";
    std::string body = "old " + std::to_string(old_size) + "\n";
    for (const Hash& h : *path) body += base64(h) + "\n";
    body += "\n" + plain.whole();
    WitnessAnswer answer;
    if (std::string problem = post_to_witness(socket_path, body, answer, patience);
        !problem.empty())
      return problem;
    if (answer.status == 409) {
      const auto size = parse_decimal(answer.body.substr(0, answer.body.find('\n')));
      if (!size || *size > checkpoint->size || *size == old_size)
        return "the witness has seen another history of this log (it keeps size " +
               answer.body.substr(0, answer.body.find('\n')) + ")";
      old_size = *size;
      continue;
    }
    if (answer.status != 200)
      return "the witness answered " + std::to_string(answer.status) + ": " +
             answer.body.substr(0, answer.body.find('\n'));
    std::size_t used = 0;
    const std::string whole = plain.text + "\n" + answer.body;
    const auto lines = parse_note(whole, used);
    if (!lines || used != whole.size()) return "the witness's answer is no cosignature";
    note.lines.insert(note.lines.end(), lines->lines.begin(), lines->lines.end());
    return {};
  }
  return "the witness changes its mind";
}

std::string collect_cosignatures(LogReader& log, const std::string& origin,
                                 const std::vector<std::string>& sockets, std::size_t& answered,
                                 const Patience& patience, std::vector<std::string>* each) {
  answered = 0;
  const std::string text = log.last_checkpoint(origin);
  std::size_t used = 0;
  auto note = parse_note(text, used);
  if (!note) return "there is no signed checkpoint yet";
  const auto last = parse_checkpoint(note->text);
  if (!last || last->size > log.size()) return "a new segment has begun: open the log again";
  std::string problems;
  for (const std::string& path : sockets) {
    const std::string problem = ask_witness(log, path, *note, patience);
    if (each != nullptr) each->push_back(problem);
    answered += problem.empty();
    if (problem.empty()) continue;
    if (!problems.empty()) problems += "; ";
    problems.append(path).append(": ").append(problem);
  }
  if (answered == 0) return problems;
  int error = 0;
  const auto file = log.files().open("witnessed", OpenMode::kCreate, error);
  if (file != nullptr) {
    const std::uint64_t end = file->size();
    error = write_all(*file, bytes_of(note->whole()), end);
    if (error == 0) error = file->sync();
    if (error != 0) static_cast<void>(file->truncate(end));
  }
  if (error != 0) return std::string{"witnessed: "} + std::strerror(error);
  return problems;
}

}  // namespace bulkhead::audit
