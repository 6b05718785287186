// The tamper suite: what somebody does to a finished log, each found by the check that is named, at the entry that is named.
// Each case is made so that its check is the only one that can see it: switched off, the verifier would say intact.
// The intruder makes journal and tree right again each time (forger.h), so that what catches him is a signature.
#include <gtest/gtest.h>

#include "audit/forger.h"
#include "audit/verify.h"

namespace bulkhead::audit {
namespace {

using namespace test;

// boot, key 0, session, 8 entries, a checkpoint; then five epochs, the third of them empty; 8 entries in each other.
struct Victim {
  TestLog log;
  std::map<std::uint64_t, std::string> epoch_keys;
  std::string kept;  // a checkpoint that an auditor took home
  Forger forger;
  std::map<std::string, std::string> aside;  // files of another, later state

  void keep_key() {
    const std::string text = slurp(log.directory + "/epoch.key");
    epoch_keys[std::stoull(text.substr(6))] = text;
  }
  Victim() {
    EXPECT_EQ(log.open(), "");
    keep_key();
    EXPECT_TRUE(log.writer->record(session_json(1, log.now)).ok());
    std::uint64_t n = 0;
    for (int epoch = 0; epoch < 5; ++epoch) {
      if (epoch != 2) {
        log.append(1, 0, n, 8);
        n += 8;
        EXPECT_TRUE(log.writer->finish().ok());
      }
      log.next_epoch();
      keep_key();
      if (epoch == 1) save("early");
    }
    kept = log.writer->state().last_signed;
    log.writer.reset();
    forger.directory = log.directory;
  }
  void save(const std::string& as) {
    for (const char* file : {"/segment/000000000000.data", "/segment/000000000000.journal",
                             "/tree/1", "/checkpoints", "/epoch.key"})
      aside[as + file] = slurp(log.directory + file);
  }
  void restore(const std::string& from) {
    for (const auto& [name, text] : aside) {
      if (name.starts_with(from)) spit(log.directory + name.substr(from.size()), text);
    }
  }
  // Entry i of the log as it lies in the leaves.
  static abi::AuditEntry entry(const std::string& leaf) { return entry_of(bytes_of(leaf)); }
  static std::string leaf(const abi::AuditEntry& e) {
    return {reinterpret_cast<const char*>(&e), sizeof e};
  }
};

struct Tamper {
  const char* name;
  std::function<void(Victim&)> change;
  Check check;
  const char* begins;  // how the first finding begins
  bool trusted = false;
  bool only = true;  // nothing else sees it
};

// Sequences are made contiguous again behind a change, so that only a signature can tell.
void renumber(Leaves& all) {
  std::uint64_t next = 0;
  for (std::string& leaf : all) {
    if (is_record(bytes_of(leaf))) continue;
    abi::AuditEntry e = Victim::entry(leaf);
    abi::set_sequence(e, next++);
    leaf = Victim::leaf(e);
  }
}

std::vector<Tamper> tampers() {
  const auto rewrite = [](auto how) { return [how](Victim& v) { v.forger.change(how); }; };
  std::vector<Tamper> all;
  // The forger's journal holds, so the smallest range that is proven wrong is named: from the last good checkpoint on.
  all.push_back({"flip", rewrite([](Leaves& l) { l[14][30] ^= 4; }), Check::kRoot,
                 "root: index 12: the checkpoint of size 20"});
  all.push_back({"delete, the last of its lane", rewrite([](Leaves& l) {
                   l.erase(l.begin() + 18);
                   renumber(l);
                 }),
                 Check::kRoot, "root: index 12: the checkpoint of size 20", false, false});
  all.push_back({"delete", rewrite([](Leaves& l) { l.erase(l.begin() + 14); }), Check::kSequence,
                 "sequence: index 14 (session 1, lane 0, sequence 10): 1 entries are missing",
                 false, false});
  all.push_back({"swap", rewrite([](Leaves& l) {
                   std::swap(l[14], l[15]);
                   renumber(l);
                 }),
                 Check::kRoot, "root: index 12: the checkpoint of size 20"});
  all.push_back(
      {"swap as they are", rewrite([](Leaves& l) { std::swap(l[14], l[15]); }), Check::kSequence,
       "sequence: index 14 (session 1, lane 0, sequence 10): 1 entries are missing", false, false});
  all.push_back(
      {"duplicate", rewrite([](Leaves& l) { l.insert(l.begin() + 14, l[14]); }), Check::kSequence,
       "sequence: index 15 (session 1, lane 0, sequence 10): it is there again", false, false});
  all.push_back({"splice from another log",
                 [](Victim& v) {
                   Victim other;
                   other.forger.change([](Leaves& l) {
                     for (std::string& leaf : l) {
                       if (!is_record(bytes_of(leaf))) leaf[36] = static_cast<char>(leaf[36] ^ 1);
                     }
                   });
                   const Leaves theirs = other.forger.leaves();
                   v.forger.change([&](Leaves& l) {
                     std::copy(theirs.begin() + 12, theirs.begin() + 20, l.begin() + 12);
                   });
                 },
                 Check::kRoot, "root: index 12: the checkpoint of size 20"});
  all.push_back({"truncate",
                 [](Victim& v) {
                   Leaves l = v.forger.leaves();
                   l.resize(26);
                   v.forger.write(l);
                 },
                 Check::kSize, "size: index 26: 30 entries were signed, 26 are there"});
  all.push_back({"re-sign with the host's key and a later epoch's",
                 [](Victim& v) {
                   v.forger.change([](Leaves& l) { l[14][30] ^= 4; });
                   v.forger.sign_again(v.epoch_keys,
                                       [](std::uint64_t) { return std::uint64_t{5}; });
                 },
                 Check::kEpochSignature,
                 "epoch-signature: index 2: the checkpoint of size 2 has no good signature of "
                 "epoch 0 (it bears a line of test/bulkhead/epoch/5)"});
  all.push_back(
      {"re-sign with keys of his own",
       [](Victim& v) {
         v.forger.change([](Leaves& l) { l[14][30] ^= 4; });
         const auto ed = PrivateKey::generate(KeyType::kEd25519);
         const auto ec = PrivateKey::generate(KeyType::kP256);
         const std::string before = slurp(v.log.directory + "/host.key");
         spit(v.log.directory + "/host.key", ed->pem() + ec->pem());
         v.forger.sign_again(v.epoch_keys);
         spit(v.log.directory + "/host.key", before);
       },
       Check::kSignature,
       "signature: index 2: the checkpoint of size 2 has no signature of the host's Ed25519 key"});
  all.push_back({"one signature's bytes",
                 [](Victim& v) {
                   auto notes = v.forger.checkpoints();
                   notes[3].lines[1].signature[20] ^= 1;
                   v.forger.write_checkpoints(notes);
                 },
                 Check::kSignature,
                 "signature: index 20: the checkpoint of size 20 has a wrong signature of the "
                 "host's P-256 key"});
  all.push_back(
      {"roll back", [](Victim& v) { v.restore("early"); }, Check::kTrusted,
       "trusted: index 21: 40 entries were signed in the auditor's checkpoint, 21 are there",
       true});
  all.push_back({"fork",
                 [](Victim& v) {
                   // From an earlier state on, with all keys of that time, another history.
                   v.restore("early");
                   v.log.now -= 3 * 60 * kSecond;
                   EXPECT_EQ(v.log.open(), "");
                   v.log.append(1, 0, 16, 30);
                   EXPECT_TRUE(v.log.writer->finish().ok());
                   v.log.next_epoch();
                   v.log.writer.reset();
                 },
                 Check::kTrusted,
                 "trusted: index 40: the auditor's checkpoint of size 40 is of another log", true});
  all.push_back({"seal of the empty epoch removed",
                 [](Victim& v) {
                   auto notes = v.forger.checkpoints();
                   std::erase_if(
                       notes, [](const Note& n) { return parse_checkpoint(n.text)->size == 22; });
                   v.forger.write_checkpoints(notes);
                 },
                 Check::kSeal,
                 "seal: index 21: the epoch that ended here has no seal: the checkpoint of size 22 "
                 "is missing"});
  all.push_back(
      {"empty epoch removed, signed again with every key there was",
       [](Victim& v) {
         v.forger.change([](Leaves& l) { l.erase(l.begin() + 21); });
         auto notes = v.forger.checkpoints();
         std::vector<Note> kept;
         for (Note& n : notes) {
           auto c = *parse_checkpoint(n.text);
           if (c.size == 22) continue;
           if (c.size > 22) --c.size;
           n.text = checkpoint_text(c);
           kept.push_back(n);
         }
         v.forger.write_checkpoints(kept);
         v.forger.sign_again(v.epoch_keys, [](std::uint64_t e) { return e == 3 ? 2 : e; });
       },
       Check::kKeyChain,
       "key-chain: index 29: the key of epoch 4 follows epoch 2: epochs are missing between them",
       false, true});
  all.push_back(
      {"another key in the chain",
       [](Victim& v) {
         const auto mine = PrivateKey::generate(KeyType::kEd25519);
         v.forger.change([&](Leaves& l) {
           std::string problem;
           auto record = parse_record(std::string_view{l[20]}.substr(1), "test/bulkhead", problem);
           auto key = std::get<KeyRecord>(*record);
           const PublicKey half = mine->public_key();
           std::copy(half.bytes().begin(), half.bytes().end(), key.public_key.begin());
           l[20] = "\x1f" + key_json(key);
           record = parse_record(std::string_view{l[21]}.substr(1), "test/bulkhead", problem);
           key = std::get<KeyRecord>(*record);
           key.signature = mine->sign(bytes_of(key_signed_text(key, "test/bulkhead")));
           l[21] = "\x1f" + key_json(key);
         });
         v.epoch_keys[2] = mine->pem();
         v.forger.sign_again(v.epoch_keys);
       },
       Check::kKeyChain,
       "key-chain: index 20: the key of epoch 2 is not certified by the key of the epoch before"});
  all.push_back({"checkpoints in another order",
                 [](Victim& v) {
                   auto notes = v.forger.checkpoints();
                   notes.insert(notes.begin() + 4, notes[1]);
                   v.forger.write_checkpoints(notes);
                 },
                 Check::kOrder,
                 "order: index 11: a checkpoint of size 11 comes after one of size 20"});
  all.push_back(
      {"another log's checkpoint among them",
       [](Victim& v) {
         auto notes = v.forger.checkpoints();
         Note other = notes[1];
         other.text = "other/bulkhead\n11\n" + other.text.substr(other.text.find("\n11\n") + 4);
         notes.insert(notes.begin() + 2, other);
         v.forger.write_checkpoints(notes);
       },
       Check::kCheckpointForm,
       "checkpoint-form: index 11: checkpoints has a note that is no checkpoint of test/bulkhead"});
  all.push_back({"one byte of the data, nothing else",
                 [](Victim& v) {
                   std::string data = slurp(v.forger.segment(".data"));
                   const std::size_t at = data.size() - 56 * 4;
                   data[at] = static_cast<char>(data[at] ^ 1);
                   spit(v.forger.segment(".data"), data);
                 },
                 Check::kJournal, "", false, false});
  all.push_back(
      {"the journal alone",
       [](Victim& v) {
         std::string journal = slurp(v.forger.segment(".journal"));
         journal[400] = static_cast<char>(journal[400] ^ 1);
         spit(v.forger.segment(".journal"), journal);
       },
       Check::kJournal,
       "journal: index 3: the journal's record of the batch that begins here is damaged"});
  all.push_back({"all entries of a segment",
                 [](Victim& v) { std::filesystem::remove(v.forger.segment(".data")); },
                 Check::kSize, "", false, false});
  return all;
}

VerifyReport verify(const Victim& v, const Tamper& tamper, bool off) {
  VerifyOptions options;
  auto policy = parse_policy(slurp(v.log.directory + "/host.pub"));
  options.policy = *policy;
  if (tamper.trusted) options.trusted = v.kept;
  options.off[static_cast<std::size_t>(tamper.check)] = off;
  PosixFiles files{v.log.directory};
  return verify_log(files, options);
}

std::string all_of(const VerifyReport& r) {
  std::string out = r.could_not;
  for (const Finding& f : r.findings) out += "\n  " + finding_text(f);
  for (const std::string& t : r.remarks) out += "\n  (" + t + ")";
  return out;
}

TEST(Tamper, NobodyDidAnything) {
  Victim v;
  const Tamper none{"", {}, Check::kCount, "", true};
  VerifyOptions options;
  options.policy = *parse_policy(slurp(v.log.directory + "/host.pub"));
  options.trusted = v.kept;
  PosixFiles files{v.log.directory};
  const VerifyReport r = verify_log(files, options);
  EXPECT_EQ(r.exit_code(), 0) << all_of(r);
  // The forger's own writing is without a flaw: what catches him later is not a slip of his.
  v.forger.change([](Leaves&) {});
  v.forger.sign_again(v.epoch_keys);
  const VerifyReport again = verify_log(files, options);
  EXPECT_EQ(again.exit_code(), 0) << all_of(again);
}

TEST(Tamper, EachIsFoundAndNamedAndOnlyByItsCheck) {
  for (const Tamper& tamper : tampers()) {
    SCOPED_TRACE(tamper.name);
    Victim v;
    tamper.change(v);
    const VerifyReport r = verify(v, tamper, false);
    if (std::string_view{tamper.begins}.empty()) {
      EXPECT_NE(r.exit_code(), 0) << all_of(r);
    } else {
      EXPECT_EQ(r.exit_code(), 1);
      ASSERT_FALSE(r.findings.empty()) << all_of(r);
      EXPECT_TRUE(finding_text(r.findings[0]).starts_with(tamper.begins)) << all_of(r);
    }
    if (!tamper.only) continue;
    const VerifyReport without = verify(v, tamper, true);
    EXPECT_EQ(without.exit_code(), 0) << all_of(without);
  }
}

}  // namespace
}  // namespace bulkhead::audit
