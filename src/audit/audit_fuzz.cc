// Every parser of the log over hostile bytes; the first byte picks which. Several are run over the verifier as a whole, with
// the bytes as segment, journal and checkpoints.
#include <cstdlib>
#include <string>

#include "audit/pack.h"
#include "audit/reader.h"
#include "audit/records.h"
#include "audit/sim_files.h"
#include "audit/verify.h"
#include "audit/witness_socket.h"

namespace {

using namespace bulkhead::audit;
using test::SimDisk;
using test::SimFiles;

void must(bool good) {
  if (!good) std::abort();
}

const PrivateKey& host() {
  static const PrivateKey key = *PrivateKey::generate(KeyType::kEd25519);
  return key;
}
TrustPolicy policy() {
  TrustPolicy out;
  out.origin = "f";
  out.log.push_back(verifier_key("f", LineType::kEd25519, host().public_key()));
  return out;
}

void put(SimDisk& disk, const std::string& name, Bytes bytes) {
  auto node = std::make_shared<test::SimNode>();
  node->now.assign(bytes.begin(), bytes.end());
  disk.now[name] = node;
}

// Split at 0xfe 0xff into the files of a log.
void whole_log(Bytes bytes) {
  static const char* const kNames[] = {"segment/000000000000.data",
                                       "segment/000000000000.journal",
                                       "checkpoints",
                                       "tree/1",
                                       "witnessed",
                                       "segment/000000000001.zst"};
  SimDisk disk{1};
  std::size_t which = 0, from = 0;
  for (std::size_t i = 0; i + 1 < bytes.size() && which < 6; ++i) {
    if (bytes[i] != 0xfe || bytes[i + 1] != 0xff) continue;
    put(disk, kNames[which++], bytes.subspan(from, i - from));
    from = i + 2;
  }
  if (which < 6) put(disk, kNames[which], bytes.subspan(std::min(from, bytes.size())));
  SimFiles files{disk};
  VerifyOptions options;
  options.policy = policy();
  // Nobody but the host's key can make it say intact, and that key signed nothing.
  must(verify_log(files, options).exit_code() != 0);
  auto reader = LogReader::open(std::make_unique<SimFiles>(disk));
  if (reader.ok()) {
    const std::uint64_t size = (*reader)->size();
    for (std::uint64_t i = 0; i < std::min<std::uint64_t>(size, 4); ++i) {
      const auto entry = (*reader)->entry(i);
      if (entry) static_cast<void>(entry_json(i, *entry, true));
    }
  }
}

void journal(Bytes bytes) {
  const auto header = parse_journal_header(bytes);
  if (header) must(Frontier::of(header->first, header->peaks).has_value());
  const auto record = parse_batch_record(bytes);
  if (!record) return;
  Buffer again;
  put_batch_record(*record, again);
  must(again.size() <= bytes.size());
}

void note(std::string_view text) {
  std::size_t used = 0;
  const auto one = parse_note(text, used);
  if (!one) return;
  must(used <= text.size());
  const auto checkpoint = parse_checkpoint(one->text);
  if (checkpoint) must(parse_checkpoint(checkpoint_text(*checkpoint))->size == checkpoint->size);
  for (const VerifierKey& key : policy().log) must(check_note(*one, key) != LineState::kGood);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const Bytes bytes{data + 1, size - 1};
  const std::string_view text{reinterpret_cast<const char*>(data) + 1, size - 1};
  std::string problem, shown;
  switch (data[0] % 9) {
    case 0:
      journal(bytes);
      break;
    case 1: {
      const auto entries = split_entries(bytes, 1 + data[0] / 9u);
      if (entries) must(entries->size() == 1 + data[0] / 9u);
      break;
    }
    case 2:
      note(text);
      break;
    case 3:
      static_cast<void>(parse_policy(std::string{text}));
      static_cast<void>(parse_vkey(text));
      break;
    case 4:
      static_cast<void>(parse_record(text, "f", problem));
      break;
    case 5:
      must(!check_proof(std::string{text}, policy(), shown).empty());
      break;
    case 6:
      whole_log(bytes);
      break;
    case 7: {
      HttpMessage message;
      static_cast<void>(parse_http(text, message));
      SimDisk disk{1};
      SimFiles files{disk};
      Witness witness{files, "w", *PrivateKey::from_pem(KeyType::kEd25519, host().pem()),
                      policy().log};
      must(witness.add_checkpoint(text, 1).status != 200);
      break;
    }
    case 8: {
      SimDisk disk{1};
      put(disk, "p", bytes);
      SimFiles files{disk};
      const auto file = open_packed(files, "p", problem);
      Buffer out(1u << 16);
      for (std::uint64_t at = 0; file != nullptr && at < file->size();) {
        const long n = file->read_at(out.data(), out.size(), at);
        if (n <= 0) break;
        at += static_cast<std::uint64_t>(n);
      }
      break;
    }
  }
  return 0;
}
