// Memory that processes share, through the real preload on the simulated driver: charged once, kept charged while
// anybody holds it, taken over when its maker is killed, refused between tenants.
#include <sys/mman.h>

#include <memory>
#include <sstream>

#include "abi/cuda_types.h"
#include "shm/node.h"
#include "shm/quota.h"
#include "shm/tenant.h"
#include "tests/hook/process.h"

namespace bulkhead::test {
namespace {

constexpr std::uint64_t kMiB = 1u << 20;
constexpr std::uint64_t kContext = 518 * kMiB;
constexpr std::uint64_t kLimit = 4096 * kMiB;

// The simulated driver, unless BULKHEAD_TEST_DRIVER=real: then the machine's own (one GPU, nobody else on it).
const bool kReal = [] {
  const char* v = getenv("BULKHEAD_TEST_DRIVER");
  return v != nullptr && std::string{v} == "real";
}();

struct Answer {
  int rc = -1;
  std::string more;
};

class Share : public testing::Test {
 protected:
  void SetUp() override {
    char path[] = "/tmp/bulkhead-share-XXXXXX";
    ASSERT_NE(mkdtemp(path), nullptr);
    dir_ = path;
  }
  void TearDown() override {
    all_.clear();
    EXPECT_EQ(std::system(("rm -rf " + dir_).c_str()), 0);
  }
  Client& start(const char* tenant = "one") {
    Env env{{"LD_PRELOAD", kLibrary},
            {"BULKHEAD_DIR", dir_},
            {"BULKHEAD_TENANT", tenant},
            {"BULKHEAD_MEMORY", std::to_string(kLimit)}};
    if (!kReal) {
      env["LD_LIBRARY_PATH"] = kSim;
      env["BULKHEAD_SIM"] = "h200";
    }
    all_.push_back(std::make_unique<Client>(Args{kClients + "share_client"}, env));
    EXPECT_EQ(ask(*all_.back(), "init").rc, 0) << all_.back()->errors;
    return *all_.back();
  }
  static Answer ask(Client& c, const std::string& line) {
    c.text.clear();
    c.tell(line + "\n");
    while (c.text.find('\n') == std::string::npos) {
      if (!c.read_some()) return {};
    }
    Answer a;
    std::string rc;
    std::istringstream{c.text} >> rc >> a.rc >> a.more;
    return a;
  }
  static int rc(Client& c, const std::string& line) { return ask(c, line).rc; }
  static void slay(Client& c) {
    kill(c.pid(), SIGKILL);
    c.finish();
  }
  shm::Dir directory() {
    shm::DirOptions o;
    o.asked = dir_.c_str();
    o.euid = geteuid();
    return std::move(*shm::open_dir(o));
  }
  std::uint64_t held(const char* tenant = "one") {
    Result<shm::Snapshot> shot = shm::snapshot_tenant(directory(), tenant);
    return shot.ok() ? shm::held_bytes(shot->region(), 0) / kMiB : ~0ull;
  }
  std::uint64_t header(std::size_t offset, const char* tenant = "one") {
    Result<shm::Snapshot> shot = shm::snapshot_tenant(directory(), tenant);
    std::uint64_t v = ~0ull;
    if (shot.ok()) std::memcpy(&v, reinterpret_cast<const char*>(&shot->region()) + offset, 8);
    return v;
  }
  std::uint64_t refused(const char* tenant = "one") {
    return header(offsetof(shm::RegionHeader, imports_refused), tenant);
  }
  // A process whose refused request makes the library ask for the dead and for what is owed.
  static void ask_for_the_dead(Client& c) {
    EXPECT_EQ(rc(c, "alloc little 2097152"), 0);  // books that moved are asked for anew
    EXPECT_EQ(rc(c, "free little"), 0);
    EXPECT_EQ(rc(c, "alloc toomuch " + std::to_string(kLimit)), CUDA_ERROR_OUT_OF_MEMORY);
  }
  static constexpr std::uint64_t kTwo = 2 * kContext / kMiB, kOne = kContext / kMiB;
  std::string dir_;
  std::vector<std::unique_ptr<Client>> all_;
};

TEST_F(Share, AnImportIsChargedOnce) {
  Client &a = start(), &b = start();
  ASSERT_EQ(rc(a, "alloc x 268435456"), 0);
  const std::string handle = ask(a, "export x").more;
  ASSERT_EQ(rc(b, "open y " + handle), 0);
  EXPECT_EQ(held(), kTwo + 256);
  ASSERT_EQ(rc(b, "close y"), 0);
  EXPECT_EQ(held(), kTwo + 256);
  ASSERT_EQ(rc(a, "free x"), 0);
  EXPECT_EQ(held(), kTwo);
  EXPECT_EQ(rc(b, "open y " + handle), CUDA_ERROR_NOT_PERMITTED);  // forgotten with its memory
}

TEST_F(Share, AnotherTenantsExportIsRefusedAndCounted) {
  Client &a = start("one"), &b = start("two");
  ASSERT_EQ(rc(a, "alloc x 268435456"), 0);
  EXPECT_EQ(rc(b, "open y " + ask(a, "export x").more), CUDA_ERROR_NOT_PERMITTED);
  EXPECT_EQ(refused("two"), 1u);
  EXPECT_EQ(refused("one"), 0u);
  ASSERT_EQ(rc(a, "create v 67108864"), 0);
  ASSERT_EQ(rc(a, "vexport v"), 0);
  ASSERT_EQ(rc(b, "listen " + dir_ + "/s"), 0);
  ASSERT_EQ(rc(a, "send v " + dir_ + "/s"), 0);
  ASSERT_EQ(rc(b, "receive f"), 0);
  EXPECT_EQ(rc(b, "import w f"), CUDA_ERROR_NOT_PERMITTED);
  ASSERT_EQ(rc(a, "pool p"), 0);
  ASSERT_EQ(rc(a, "pexport p"), 0);
  ASSERT_EQ(rc(a, "send p " + dir_ + "/s"), 0);
  ASSERT_EQ(rc(b, "receive g"), 0);
  EXPECT_EQ(rc(b, "pimport q g"), CUDA_ERROR_NOT_PERMITTED);
  EXPECT_EQ(refused("two"), 3u);
}

TEST_F(Share, TheKilledMakersMemoryIsTakenOver) {
  Client &a = start(), &b = start();
  ASSERT_EQ(rc(a, "alloc x 268435456"), 0);
  ASSERT_EQ(rc(a, "alloc own 104857600"), 0);
  ASSERT_EQ(rc(b, "open y " + ask(a, "export x").more), 0);
  EXPECT_EQ(held(), kTwo + 356);
  slay(a);
  ask_for_the_dead(b);
  EXPECT_EQ(held(), kOne + 256);  // its own went, what b holds did not
  ASSERT_EQ(rc(b, "close y"), 0);
  EXPECT_EQ(held(), kOne);
}

TEST_F(Share, WithoutTakerNothingIsForgotten) {
  Client &a = start(), &b = start(), &c = start();
  ASSERT_EQ(rc(a, "alloc x 268435456"), 0);
  ASSERT_EQ(rc(b, "open y " + ask(a, "export x").more), 0);
  kill(b.pid(), SIGSTOP);  // holds, and cannot take over
  slay(a);
  ask_for_the_dead(c);
  EXPECT_EQ(held(), kTwo + 256);
  kill(b.pid(), SIGCONT);
  slay(b);
  ask_for_the_dead(c);
  EXPECT_EQ(held(), kOne);
}

TEST_F(Share, TheSecondImporterTakesOverFromTheFirst) {
  Client &a = start(), &b = start(), &c = start();
  ASSERT_EQ(rc(a, "alloc x 268435456"), 0);
  const std::string handle = ask(a, "export x").more;
  ASSERT_EQ(rc(b, "open y " + handle), 0);
  ASSERT_EQ(rc(c, "open y " + handle), 0);
  slay(a);
  ask_for_the_dead(b);
  EXPECT_EQ(held(), kTwo + 256);
  slay(b);
  ask_for_the_dead(c);
  EXPECT_EQ(held(), kOne + 256);
  ASSERT_EQ(rc(c, "close y"), 0);
  EXPECT_EQ(held(), kOne);
}

TEST_F(Share, FreedByItsMakerItStaysChargedWhileHeld) {
  Client &a = start(), &b = start();
  ASSERT_EQ(rc(a, "alloc x 268435456"), 0);
  ASSERT_EQ(rc(b, "open y " + ask(a, "export x").more), 0);
  ASSERT_EQ(rc(a, "free x"), 0);
  EXPECT_GE(held(), kTwo + 256);  // twice for a moment, if b's thread is taking it over now
  ask_for_the_dead(b);
  ask_for_the_dead(a);
  EXPECT_EQ(held(), kTwo + 256);
  ASSERT_EQ(rc(b, "close y"), 0);
  EXPECT_EQ(held(), kTwo);
}

TEST_F(Share, OpenedTwiceItIsHeldUntilTheLastClose) {
  Client &a = start(), &b = start();
  ASSERT_EQ(rc(a, "alloc x 268435456"), 0);
  const std::string handle = ask(a, "export x").more;
  ASSERT_EQ(rc(b, "open y " + handle), 0);
  ASSERT_EQ(rc(b, "open z " + handle), 0);
  slay(a);
  ASSERT_EQ(rc(b, "close y"), 0);
  ask_for_the_dead(b);
  EXPECT_EQ(held(), kOne + 256);
  ASSERT_EQ(rc(b, "close z"), 0);
  EXPECT_EQ(held(), kOne);
  EXPECT_NE(rc(b, "close z"), 0);
  EXPECT_EQ(held(), kOne);
}

TEST_F(Share, AResetDropsWhatWasOpened) {
  Client &a = start(), &b = start();
  ASSERT_EQ(rc(a, "alloc x 268435456"), 0);
  const std::string handle = ask(a, "export x").more;
  ASSERT_EQ(rc(b, "open y " + handle), 0);
  ASSERT_EQ(rc(b, "open z " + handle), 0);
  ASSERT_EQ(rc(b, "reset"), 0);
  ASSERT_EQ(rc(a, "free x"), 0);
  EXPECT_EQ(held(), kOne);  // nothing of x is kept
}

TEST_F(Share, SmallOnesOfOneSlabAreOwedOnce) {
  Client &a = start(), &b = start();
  ASSERT_EQ(rc(a, "alloc x 65536"), 0);
  ASSERT_EQ(rc(a, "alloc y 65536"), 0);
  ASSERT_EQ(rc(b, "open x " + ask(a, "export x").more), 0);
  ASSERT_EQ(rc(b, "open y " + ask(a, "export y").more), 0);
  EXPECT_EQ(held(), kTwo + 2);
  slay(a);
  ask_for_the_dead(b);
  EXPECT_EQ(held(), kOne + 2);
  ASSERT_EQ(rc(b, "close x"), 0);
  EXPECT_EQ(held(), kOne + 2);
  ASSERT_EQ(rc(b, "close y"), 0);
  EXPECT_EQ(held(), kOne);
}

TEST_F(Share, DescriptorsHoldWhileTheyAreOpen) {
  Client &a = start(), &b = start();
  ASSERT_EQ(rc(a, "create v 268435456"), 0);
  ASSERT_EQ(rc(a, "vexport v"), 0);
  ASSERT_EQ(rc(b, "listen " + dir_ + "/s"), 0);
  ASSERT_EQ(rc(a, "send v " + dir_ + "/s"), 0);
  ASSERT_EQ(rc(a, "closefd v"), 0);
  slay(a);
  ask_for_the_dead(b);  // in a socket, and nowhere else
  EXPECT_EQ(held(), kOne + 256);
  ASSERT_EQ(rc(b, "receive f"), 0);
  ASSERT_EQ(rc(b, "closefd f"), 0);
  ask_for_the_dead(b);
  EXPECT_EQ(held(), kOne);
}

TEST_F(Share, AnImportedHandleIsTakenOver) {
  Client &a = start(), &b = start();
  ASSERT_EQ(rc(a, "create v 268435456"), 0);
  ASSERT_EQ(rc(a, "vexport v"), 0);
  ASSERT_EQ(rc(b, "listen " + dir_ + "/s"), 0);
  ASSERT_EQ(rc(a, "send v " + dir_ + "/s"), 0);
  ASSERT_EQ(rc(b, "receive f"), 0);
  ASSERT_EQ(rc(b, "import w f"), 0);
  ASSERT_EQ(rc(b, "import u f"), 0);
  ASSERT_EQ(rc(b, "closefd f"), 0);
  EXPECT_EQ(held(), kTwo + 256);
  slay(a);
  ask_for_the_dead(b);
  EXPECT_EQ(held(), kOne + 256);
  ASSERT_EQ(rc(b, "release w"), 0);
  EXPECT_EQ(held(), kOne + 256);
  ASSERT_EQ(rc(b, "release u"), 0);
  EXPECT_EQ(held(), kOne);
}

TEST_F(Share, ReleasedByItsMakerAndImportedAfterwards) {
  Client &a = start(), &b = start();
  ASSERT_EQ(rc(a, "create v 268435456"), 0);
  ASSERT_EQ(rc(a, "vexport v"), 0);
  ASSERT_EQ(rc(b, "listen " + dir_ + "/s"), 0);
  ASSERT_EQ(rc(a, "send v " + dir_ + "/s"), 0);
  ASSERT_EQ(rc(a, "import own v"), 0);  // in the maker itself
  ASSERT_EQ(rc(a, "release v"), 0);
  EXPECT_EQ(held(), kTwo + 256);
  ASSERT_EQ(rc(b, "receive f"), 0);
  ASSERT_EQ(rc(b, "import w f"), 0);
  ASSERT_EQ(rc(a, "release own"), 0);
  ASSERT_EQ(rc(a, "closefd v"), 0);
  ASSERT_EQ(rc(b, "closefd f"), 0);
  ask_for_the_dead(b);
  ask_for_the_dead(a);
  EXPECT_EQ(held(), kTwo + 256);
  ASSERT_EQ(rc(b, "release w"), 0);
  ask_for_the_dead(a);
  EXPECT_EQ(held(), kTwo);
}

TEST_F(Share, PoolPointersStayChargedAfterTheirMaker) {
  Client &a = start(), &b = start();
  ASSERT_EQ(rc(a, "pool p"), 0);
  ASSERT_EQ(rc(a, "palloc p 100663296"), 0);
  ASSERT_EQ(rc(a, "pexport p"), 0);
  ASSERT_EQ(rc(b, "listen " + dir_ + "/s"), 0);
  ASSERT_EQ(rc(a, "send p " + dir_ + "/s"), 0);
  ASSERT_EQ(rc(b, "receive f"), 0);
  ASSERT_EQ(rc(b, "pimport q f"), 0);
  ASSERT_EQ(rc(b, "pset q " + ask(a, "pget p").more), 0);
  EXPECT_EQ(held(), kTwo + 96);
  slay(a);
  ask_for_the_dead(b);
  EXPECT_EQ(held(), kOne + 96);
}

TEST_F(Share, EventsAreNotMemory) {
  Client &a = start("one"), &b = start("two");
  const Answer e = ask(a, "event");
  if (e.rc == CUDA_ERROR_NOT_SUPPORTED) GTEST_SKIP() << "the simulator has no interprocess events";
  ASSERT_EQ(e.rc, 0);
  EXPECT_EQ(rc(b, "event " + e.more), 0);
}

// Two tenants that name each other in the operator's page; the page is written here, as the daemon will.
TEST_F(Share, ShareWithNeedsBothNames) {
  Client &a = start("one"), &b = start("two");
  ASSERT_EQ(rc(a, "alloc x 268435456"), 0);
  const std::string handle = ask(a, "export x").more;
  const std::string path = dir_ + "/node";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  ASSERT_EQ(ftruncate(fd, sizeof(shm::NodePage)), 0);
  void* const at = mmap(nullptr, sizeof(shm::NodePage), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ASSERT_NE(at, MAP_FAILED);
  auto& page = *static_cast<shm::NodePage*>(at);
  const std::uint8_t uuid[shm::kUuidBytes] = {1};
  ASSERT_TRUE(shm::set_node_limit(page, "one", uuid, kLimit).ok());
  ASSERT_TRUE(shm::set_node_limit(page, "two", uuid, kLimit).ok());
  shm::format_node(page, shm::kPrivateDirs);
  EXPECT_EQ(rc(b, "open y " + handle), CUDA_ERROR_NOT_PERMITTED);
  ASSERT_TRUE(shm::set_node_partners(page, "two", {1}).ok());
  EXPECT_EQ(rc(b, "open y " + handle), CUDA_ERROR_NOT_PERMITTED);  // one side alone
  ASSERT_TRUE(shm::set_node_partners(page, "one", {2}).ok());
  EXPECT_EQ(rc(b, "open y " + handle), 0);
  EXPECT_EQ(held("two"), kOne);
  EXPECT_EQ(held("one"), kOne + 256);
  EXPECT_EQ(rc(b, "close y"), 0);
  EXPECT_EQ(refused("two"), 2u);
  munmap(at, sizeof(shm::NodePage));
  close(fd);
}

}  // namespace
}  // namespace bulkhead::test
