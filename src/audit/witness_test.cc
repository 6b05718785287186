// A witness never cosigns two histories; what it cosigned is checked by the verifier.
#include "audit/witness.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "audit/forger.h"
#include "audit/verify.h"

namespace bulkhead::audit {
namespace {

using namespace test;

struct Pair {
  TestLog log;
  TestLog place;  // the witness's own directory
  PosixFiles files{place.directory};
  TrustPolicy policy;
  std::optional<Witness> witness;
  std::string pem = PrivateKey::generate(KeyType::kEd25519)->pem();

  Pair() {
    EXPECT_EQ(log.open(), "");
    policy = *parse_policy(slurp(log.directory + "/host.pub"));
    start();
  }
  void start() {
    witness.emplace(files, "witness.test/one", *PrivateKey::from_pem(KeyType::kEd25519, pem),
                    policy.log);
  }
  [[nodiscard]] std::string last() const { return log.writer->state().last_signed; }
  [[nodiscard]] std::string proof(std::uint64_t old) const {
    auto reader = LogReader::open(std::make_unique<PosixFiles>(log.directory));
    std::string out = "old " + std::to_string(old) + "\n";
    const auto path = consistency_proof((*reader)->hashes(), old, log.writer->size());
    for (const Hash& h : *path) out += base64(h) + "\n";
    return out + "\n";
  }
  void grow(std::uint64_t from, std::size_t n) {
    if (from == 0) {
      EXPECT_TRUE(log.writer->record(session_json(1, log.now)).ok());
    }
    log.append(1, 0, from, n);
    EXPECT_TRUE(log.writer->finish().ok());
  }
};

TEST(Witness, CosignsOnlyWhatContinues) {
  Pair p;
  WitnessAnswer a = p.witness->add_checkpoint("old 0\n\n" + p.last(), 1'800'000'000);
  EXPECT_EQ(a.status, 200) << a.body;
  p.grow(0, 20);
  EXPECT_EQ(p.witness->add_checkpoint("old 0\n\n" + p.last(), 1).body, "2\n");
  p.start();  // what it kept outlives it
  a = p.witness->add_checkpoint("old 0\n\n" + p.last(), 1);
  EXPECT_EQ(a.status, 409);
  EXPECT_EQ(a.body, "2\n");
  std::string bad = p.proof(2);
  bad[8] = bad[8] == 'A' ? 'B' : 'A';
  EXPECT_EQ(p.witness->add_checkpoint(bad + p.last(), 1).status, 422);
  EXPECT_EQ(p.witness->add_checkpoint(p.proof(2) + p.last(), 1).status, 200);
  EXPECT_EQ(p.witness->add_checkpoint("old 23\n\n" + p.last(), 1).status, 200);  // the same again
}

TEST(Witness, RefusesAnotherHistoryOfTheSameSize) {
  Pair p;
  p.grow(0, 20);
  EXPECT_EQ(p.witness->add_checkpoint("old 0\n\n" + p.last(), 1).status, 200);
  // The log's own keys over another root: only a witness can refuse that.
  const auto host = PrivateKey::from_pem(KeyType::kEd25519, slurp(p.log.directory + "/host.key"));
  Checkpoint other{p.policy.origin, 23, Hash{}};
  Note note;
  note.text = checkpoint_text(other);
  note.lines.push_back(sign_line(note.text, p.policy.origin, *host));
  EXPECT_EQ(p.witness->add_checkpoint("old 23\n\n" + note.whole(), 1).status, 409);
  other.size = 22;  // and back it does not go
  note.text = checkpoint_text(other);
  note.lines[0] = sign_line(note.text, p.policy.origin, *host);
  EXPECT_EQ(p.witness->add_checkpoint("old 22\n\n" + note.whole(), 1).status, 409);
}

TEST(Witness, NamesWhatIsWrongWithARequest) {
  Pair p;
  for (const char* bad : {"", "old\n\n", "old 01\n\n", "old 0\nxx\n\n", "old 0\n"})
    EXPECT_EQ(p.witness->add_checkpoint(std::string{bad} + (bad[0] ? p.last() : ""), 1).status, 400)
        << bad;
  Note note;
  note.text = "other/log\n1\n" + base64(Hash{}) + "\n";
  note.lines.push_back(sign_line(note.text, "other/log", *PrivateKey::generate(KeyType::kEd25519)));
  EXPECT_EQ(p.witness->add_checkpoint("old 0\n\n" + note.whole(), 1).status, 404);
  note.text = p.policy.origin + "\n1\n" + base64(Hash{}) + "\n";
  note.lines[0] = sign_line(note.text, p.policy.origin, *PrivateKey::generate(KeyType::kEd25519));
  EXPECT_EQ(p.witness->add_checkpoint("old 0\n\n" + note.whole(), 1).status, 403);
}

TEST(Witness, StateThatCannotBeReadIsNotAFreshStart) {
  Pair p;
  EXPECT_EQ(p.witness->add_checkpoint("old 0\n\n" + p.last(), 1).status, 200);
  const std::string name = p.files.list(".")[0];
  spit(p.place.directory + "/" + name, "rubbish");
  EXPECT_EQ(p.witness->add_checkpoint("old 0\n\n" + p.last(), 1).status, 500);
  spit(p.place.directory + "/" + name, "");
  EXPECT_EQ(p.witness->add_checkpoint("old 0\n\n" + p.last(), 1).status, 500);
}

TEST(Witness, OverItsSocketAndIntoTheVerifier) {
  Pair p;
  const std::string path = p.place.directory + "/s";
  std::atomic<bool> stop{false};
  SystemClock clock;
  std::thread server{
      [&] { EXPECT_EQ(serve_witness(*p.witness, path, clock, [&] { return stop.load(); }), ""); }};
  while (!std::filesystem::exists(path)) std::this_thread::yield();
  std::uint64_t n = 0;
  for (int i = 0; i < 3; ++i, n += 100) {
    p.grow(n, 100);
    auto reader = LogReader::open(std::make_unique<PosixFiles>(p.log.directory));
    std::size_t answered = 0;
    EXPECT_EQ(collect_cosignatures(**reader, p.policy.origin, {path}, answered), "");
    EXPECT_EQ(answered, 1u);
  }
  stop = true;
  server.join();
  auto policy = parse_policy(slurp(p.log.directory + "/host.pub") + "witness one " +
                             p.witness->vkey() + "\nquorum 1\n");
  ASSERT_TRUE(policy.ok()) << policy.problem;
  VerifyOptions options;
  options.policy = *policy;
  PosixFiles files{p.log.directory};
  VerifyReport r = verify_log(files, options);
  EXPECT_EQ(r.exit_code(), 0) << (r.findings.empty() ? r.could_not : finding_text(r.findings[0]));
  EXPECT_EQ(r.witnessed_size, 303u);
  // A cosignature that was changed; and none at all.
  std::string witnessed = slurp(p.log.directory + "/witnessed");
  std::string changed = witnessed;
  const std::size_t at = changed.rfind("witness.test/one ") + 40;
  changed[at] = changed[at] == 'A' ? 'B' : 'A';
  spit(p.log.directory + "/witnessed", changed);
  r = verify_log(files, options);
  ASSERT_EQ(r.exit_code(), 1);
  EXPECT_EQ(finding_text(r.findings[0]),
            "witness: index 303: a wrong cosignature of witness.test/one");
  options.off[static_cast<std::size_t>(Check::kWitness)] = true;
  EXPECT_EQ(verify_log(files, options).exit_code(), 0);
  options.off[static_cast<std::size_t>(Check::kWitness)] = false;
  std::filesystem::remove(p.log.directory + "/witnessed");
  EXPECT_EQ(verify_log(files, options).exit_code(), 1);
}

}  // namespace
}  // namespace bulkhead::audit
