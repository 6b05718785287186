// Each door leads to our function, and what is none of ours goes by unchanged.
#include <fcntl.h>
#include <sys/stat.h>

#include "tests/hook/process.h"

namespace bulkhead::test {
namespace {

using Doors = HookTest;

TEST_F(Doors, ElfSymbol) {
  const Said s = linked();
  EXPECT_EQ(s["early_info"], 3u) << "before cuInit the driver's own error";
  EXPECT_EQ(s["init"], 0u);
  EXPECT_EQ(s["total"], kGiB);
  EXPECT_EQ(s["info_without_context"], 201u) << "no context: the driver's own error";
  EXPECT_EQ(s["info"], 0u);
  EXPECT_EQ(s["info_total"], kGiB);
  EXPECT_LE(s["info_free"], kGiB);
  EXPECT_EQ(s["total_v1"], kGiB);
}

TEST_F(Doors, ThirtyTwoBitFiguresAreClamped) {
  env["BULKHEAD_MEMORY"] = "6GiB";
  EXPECT_EQ(linked()["total_v1"], 0xffff'ffffu);
}

TEST_F(Doors, AFunctionTheDriverLacksAnswersNotSupported) { EXPECT_EQ(linked()["missing"], 801u); }

TEST_F(Doors, Dlsym) {
  const Said s = doors("dlsym");
  EXPECT_EQ(s["init"], 0u);
  EXPECT_EQ(s["total"], kGiB);
  EXPECT_EQ(s["absent_function"], 1u) << "the driver has no cuMemCreate, so dlsym must fail";
  EXPECT_EQ(s["explained"], 1u);
  EXPECT_EQ(s["pass_is_real"], 1u);
}

TEST_F(Doors, Dlvsym) { EXPECT_EQ(doors("dlvsym")["total"], kGiB); }
TEST_F(Doors, RtldNext) { EXPECT_EQ(doors("next")["total"], kGiB); }
TEST_F(Doors, RtldDefault) { EXPECT_EQ(doors("default")["total"], kGiB); }

TEST_F(Doors, ProcAddress) {
  const Said s = doors("proc_address");
  EXPECT_EQ(s["result"], 0u);
  EXPECT_EQ(s["total"], kGiB);
  EXPECT_EQ(s["itself"], 1u) << "asked for itself it must hand out ours";
  EXPECT_EQ(s["same_by_itself"], 1u);
  EXPECT_EQ(s["old_differs"], 1u);
  EXPECT_EQ(s["old_is_ours"], 1u) << "an old version is another ABI, hence another function";
  EXPECT_EQ(s["twin"], 1u);
  EXPECT_EQ(s["absent_result"], 500u);
  EXPECT_EQ(s["absent_status"], 1u);
}

TEST_F(Doors, AProcessWithoutTheDriverSeesNone) {
  Env bare = env;
  bare.erase("LD_PRELOAD");
  Client native({kClients + "doors_client", "without_driver"}, bare);
  EXPECT_EQ(native.finish(), 0);
  for (const bool wanted : {true, false}) {
    if (!wanted) env.erase("BULKHEAD_MEMORY");
    const Said s = doors("without_driver");
    EXPECT_EQ(s["default"], 0u) << "our export must not pass for the driver's";
    EXPECT_EQ(s["explained"], 1u);
    EXPECT_EQ(s["program"], 0u);
    EXPECT_EQ(s["nvml"], 0u);
    EXPECT_EQ(s["threads"], 1u);
    EXPECT_EQ(s["descriptors"], parse(native.text)["descriptors"]);
  }
  struct stat st {};
  EXPECT_NE(stat((dir + "/tenants").c_str(), &st), 0) << "nothing was made";
}

TEST_F(Doors, UnaskedTheDriversFiguresStand) {
  env.erase("BULKHEAD_MEMORY");
  EXPECT_EQ(doors("dlsym")["total"], 8 * kGiB);
  EXPECT_EQ(linked()["total"], 8 * kGiB);
  EXPECT_EQ(doors("proc_address")["total"], 8 * kGiB);
}

TEST_F(Doors, AnInterposerBehindUsMeetsNoCircle) {
  env["LD_PRELOAD"] += " " BH_TESTS "/libinterposer.so";
  const Said s = linked();
  EXPECT_EQ(s["info"], 0u);
  EXPECT_EQ(s["info_total"], kGiB);
}

TEST_F(Doors, RtldNextKeepsItsCallerForOtherNames) {
  for (const char* order :
       {BH_LIBRARY " " BH_TESTS "/libinterposer.so", BH_TESTS "/libinterposer.so " BH_LIBRARY}) {
    env["LD_PRELOAD"] = order;
    EXPECT_EQ(doors("caller")["kept"], 1u) << order;
  }
}

TEST_F(Doors, AnInterposerInFrontOfUsFindsUsNext) {
  env["LD_PRELOAD"] = std::string(BH_TESTS "/libinterposer.so ") + BH_LIBRARY;
  const Said s = linked();
  EXPECT_EQ(s["info"], 0u);
  EXPECT_EQ(s["info_total"], kGiB);
}

TEST_F(Doors, DeepBindNeitherCrashesNorDisturbs) {
  const Said s = run({kClients + "doors_client", "deep_bind", BH_TESTS "/libinterposer.so"});
  EXPECT_EQ(s["loaded"], 1u);
  EXPECT_EQ(s["called"], 1u);
  EXPECT_EQ(s["total"], kGiB);
}

TEST_F(Doors, ClosingTheLibrariesChangesNothing) {
  const Said s = doors("closing");
  EXPECT_EQ(s["init"], 0u);
  ASSERT_EQ(s.lines.at("total").size(), 2u);
  EXPECT_EQ(s.lines.at("total")[0], kGiB);
  EXPECT_EQ(s.lines.at("total")[1], kGiB);
}

TEST_F(Doors, SniffWritesEveryNameAsked) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  struct stat st {};
  ASSERT_EQ(fstat(fds[1], &st), 0);
  env["BULKHEAD_SNIFF"] = std::to_string(fds[1]) + ":" + std::to_string(st.st_ino);
  Client client({kClients + "doors_client", "proc_address"}, env, fds[1]);
  EXPECT_EQ(client.finish(), 0);
  close(fds[1]);
  std::string lines(65536, 0);
  const ssize_t got = read(fds[0], lines.data(), lines.size());
  lines.resize(got < 0 ? 0 : static_cast<size_t>(got));
  close(fds[0]);
  for (const char* line :
       {"dlsym cuInit 0 ours\n", "dlsym cuGetProcAddress_v2 0 ours\n",
        "procaddress cuDeviceTotalMem 12000 ours\n", "procaddress cuMemCreate 12000 none\n"}) {
    EXPECT_NE(lines.find(line), std::string::npos) << line << "in\n" << lines;
  }
}

TEST_F(Doors, SniffWritesToNoOtherFileUnderItsNumber) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  env["BULKHEAD_SNIFF"] = std::to_string(fds[1]) + ":1";  // not this pipe's inode
  Client client({kClients + "doors_client", "dlsym"}, env, fds[1]);
  EXPECT_EQ(client.finish(), 0);
  close(fds[1]);
  char c = 0;
  EXPECT_EQ(read(fds[0], &c, 1), 0);
  close(fds[0]);
}

}  // namespace
}  // namespace bulkhead::test
