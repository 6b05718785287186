// Every function of the table that moves bytes or opens a way for them, called once over the simulated driver with arguments made
// from its line: each emits entries of its own operation, before the driver is called, and a failure entry exactly if the
// driver refused. A function that is new in the table is called too, without a change here.
#include <gtest/gtest-spi.h>

#include <map>
#include <set>
#include <type_traits>

#include "tests/hook/transfer_world.h"

namespace bulkhead::hook::test {
namespace {

constexpr std::uint64_t kBytes = 64, kCount = 16, kWidth = 8, kHeight = 4, kDepth = 2;
constexpr std::size_t kMembers = 3;

// What the arguments point to.
struct World {
  CUcontext context, peer;
  CUdeviceptr a, b, managed;
  void* host;
  CUarray array;
  CUstream stream;
  char scratch[512] = {};
  CUdeviceptr dsts[kMembers], srcs[kMembers], ranges[kMembers];
  std::size_t sizes[kMembers] = {kBytes, 2 * kBytes, 3 * kBytes}, firsts[kMembers] = {0, 1, 2};
  CUmemcpyAttributes attributes[1]{};
  CUDA_MEMCPY3D_BATCH_OP ops3[kMembers]{};
  CUmemLocation locations[kMembers]{};
  CUstreamBatchMemOpParams ops[kMembers]{};
  CUmemDecompressParams packed[kMembers]{};
  CUmemAccessDesc access[kMembers]{};
  CUarrayMapInfo pieces[kMembers]{};
  CUgraphicsResource resources[kMembers]{};
  CUDA_EXTERNAL_MEMORY_HANDLE_DESC external{};
  CUDA_MEMCPY2D_v1 old2{};
  CUDA_MEMCPY2D wide2{};
  CUDA_MEMCPY3D_v1 old3{};
  CUDA_MEMCPY3D wide3{};
  CUDA_MEMCPY3D_PEER peer3{};
  std::size_t failed = 0;
  void* out = nullptr;
};
World w;

template <class Record>
void shape(Record& c) {
  c.srcMemoryType = CU_MEMORYTYPE_HOST;
  c.srcHost = w.host;
  c.srcPitch = 32;
  c.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  c.dstDevice = static_cast<decltype(c.dstDevice)>(w.a);
  c.dstPitch = 64;
  c.WidthInBytes = kWidth;
  c.Height = kHeight;
  if constexpr (requires { c.Depth; }) {
    c.Depth = kDepth;
    c.srcHeight = c.dstHeight = kHeight;
  }
}

void fill_world() {
  const CUmemLocation gpu{CU_MEM_LOCATION_TYPE_DEVICE, {0}};
  for (std::size_t i = 0; i < kMembers; ++i) {
    w.dsts[i] = w.a + i * 4096;
    w.srcs[i] = reinterpret_cast<CUdeviceptr>(w.host) + i * 4096;
    w.ranges[i] = w.managed + i * 4096;
    w.locations[i] = gpu;
    w.access[i] = {gpu, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    auto& m = w.ops3[i];
    m.src.type = m.dst.type = CU_MEMCPY_OPERAND_TYPE_POINTER;
    m.src.op.ptr.ptr = w.srcs[i];
    m.dst.op.ptr.ptr = w.dsts[i];
    m.extent = {kWidth, kHeight, kDepth};
    w.ops[i].operation = i == 1 ? CU_STREAM_MEM_OP_WRITE_VALUE_64 : CU_STREAM_MEM_OP_WRITE_VALUE_32;
    w.ops[i].writeValue.address = w.dsts[i];
    w.packed[i].srcNumBytes = 1;
    w.packed[i].dstNumBytes = w.sizes[i];
    w.packed[i].src = w.host;
    w.packed[i].dst = reinterpret_cast<void*>(w.dsts[i]);
    w.pieces[i].memOperationType = CU_MEM_OPERATION_TYPE_MAP;
  }
  w.external.type = CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD;
  w.external.handle.fd = -1;
  w.external.size = kBuffer;
  shape(w.old2);
  shape(w.wide2);
  shape(w.old3);
  shape(w.wide3);
  shape(w.peer3);
  w.peer3.srcContext = w.peer;
  w.peer3.dstContext = w.context;
}

// A number by the parameter's name.
std::uint64_t number(std::string_view arg) {
  static const std::map<std::string_view, std::uint64_t> kNumbers = {{"ByteCount", kBytes},
                                                                     {"N", kCount},
                                                                     {"Width", kWidth},
                                                                     {"Height", kHeight},
                                                                     {"dstPitch", 64},
                                                                     {"bytesize", 4096},
                                                                     {"size", 2 << 20},
                                                                     {"numOps", kMembers},
                                                                     {"numAttrs", 1},
                                                                     {"count", kMembers},
                                                                     {"numPrefetchLocs", kMembers}};
  const auto at = kNumbers.find(arg);
  return at != kNumbers.end() ? at->second : 0;
}
std::uint64_t address(std::string_view arg) {
  if (arg == "src") return reinterpret_cast<std::uintptr_t>(w.host);  // unified: from the host
  if (arg == "srcDevice") return w.b;
  if (arg == "devPtr") return w.managed;
  return w.a;
}

template <class T>
T value(std::string_view arg) {
  if constexpr (std::is_same_v<T, CUdeviceptr> || std::is_same_v<T, CUdeviceptr_v1>) {
    // both are plain integers, as sizes are: the name tells
    const std::uint64_t n = number(arg);
    return static_cast<T>(n != 0 || arg.find("ffset") != std::string_view::npos || arg == "flags" ||
                                  arg == "Flags" || arg == "us" || arg == "ui" || arg == "value"
                              ? n
                              : address(arg));
  } else if constexpr (std::is_integral_v<T> || std::is_enum_v<T>) {
    return static_cast<T>(number(arg));
  } else if constexpr (std::is_same_v<T, CUstream>) {
    return w.stream;
  } else if constexpr (std::is_same_v<T, CUcontext>) {
    return arg == "srcContext" || arg == "peerContext" ? w.peer : w.context;
  } else if constexpr (std::is_same_v<T, CUarray>) {
    return w.array;
  } else if constexpr (std::is_same_v<T, CUdeviceptr*>) {
    return arg == "dsts" ? w.dsts : arg == "srcs" ? w.srcs : w.ranges;
  } else if constexpr (std::is_same_v<T, std::size_t*>) {
    return arg == "sizes"                            ? w.sizes
           : arg == "failIdx" || arg == "errorIndex" ? &w.failed
                                                     : w.firsts;
  } else if constexpr (std::is_same_v<T, CUmemcpyAttributes*>) {
    return w.attributes;
  } else if constexpr (std::is_same_v<T, CUDA_MEMCPY3D_BATCH_OP*>) {
    return w.ops3;
  } else if constexpr (std::is_same_v<T, CUmemLocation*>) {
    return w.locations;
  } else if constexpr (std::is_same_v<T, CUmemLocation>) {
    return w.locations[0];
  } else if constexpr (std::is_same_v<T, CUstreamBatchMemOpParams*>) {
    return w.ops;
  } else if constexpr (std::is_same_v<T, CUmemDecompressParams*>) {
    return w.packed;
  } else if constexpr (std::is_same_v<T, const CUmemAccessDesc*>) {
    return w.access;
  } else if constexpr (std::is_same_v<T, CUarrayMapInfo*>) {
    return w.pieces;
  } else if constexpr (std::is_same_v<T, CUgraphicsResource*>) {
    return w.resources;
  } else if constexpr (std::is_same_v<T, const CUDA_EXTERNAL_MEMORY_HANDLE_DESC*>) {
    return &w.external;
  } else if constexpr (std::is_same_v<T, const CUDA_MEMCPY2D_v1*>) {
    return &w.old2;
  } else if constexpr (std::is_same_v<T, const CUDA_MEMCPY2D*>) {
    return &w.wide2;
  } else if constexpr (std::is_same_v<T, const CUDA_MEMCPY3D_v1*>) {
    return &w.old3;
  } else if constexpr (std::is_same_v<T, const CUDA_MEMCPY3D*>) {
    return &w.wide3;
  } else if constexpr (std::is_same_v<T, const CUDA_MEMCPY3D_PEER*>) {
    return &w.peer3;
  } else if constexpr (std::is_same_v<T, void**>) {
    return &w.out;
  } else if constexpr (std::is_same_v<T, void*> || std::is_same_v<T, const void*>) {
    return arg == "dstHost" || arg == "srcHost" || arg == "p" ? static_cast<T>(w.host)
                                                              : static_cast<T>(w.scratch);
  } else if constexpr (std::is_pointer_v<T> && !std::is_function_v<std::remove_pointer_t<T>> &&
                       requires { sizeof(*T{}); }) {
    return reinterpret_cast<T>(const_cast<char*>(w.scratch));  // a place for an answer
  } else {
    return T{};
  }
}

struct Line {
  const char* name;
  const char* family;
  CUresult (*call)();
};
#define BH_VALUE_(type, arg) value<type>(#arg)
#define BH_VALUES(...) __VA_OPT__(BH_EACH_(BH_VALUE_, __VA_ARGS__))
#define BH_HOOK(name, since, family, ...) \
  {#name, #family, [] { return ::name(BH_VALUES(__VA_ARGS__)); }},
const Line kLines[] = {
#include "abi/cuda.def"
};

std::string base_of(std::string name) {
  for (const char* twin : {"_ptsz", "_ptds"}) {
    if (name.ends_with(twin)) name.resize(name.size() - 5);
  }
  const std::size_t v = name.rfind("_v");
  return v != std::string::npos && std::isdigit(static_cast<unsigned char>(name[v + 2])) != 0
             ? name.substr(0, v)
             : name;
}
AuditOp op_of(const std::string& base) {
  for (unsigned code = 1; code < 256; ++code) {
    const char* const name = abi::name_of(static_cast<AuditOp>(code));
    if (name != nullptr && base == name) return static_cast<AuditOp>(code);
  }
  return AuditOp::kNone;
}
bool is_map(AuditOp op) { return static_cast<unsigned>(op) >= 64; }

// What all entries of a call say together. -1: not checked here.
struct Expected {
  std::size_t entries = 1;
  std::int64_t bytes = -1;
  Direction direction = Direction::kUnknown;
  bool shaped = false;
};
Expected expected(const std::string& base) {
  const auto has = [&](const char* part) { return base.find(part) != std::string::npos; };
  if (has("cuMemcpy3DBatch"))
    return {kMembers, 3 * kWidth * kHeight * kDepth, Direction::kHostToDevice, true};
  if (has("cuMemcpyBatch")) return {kMembers, 6 * kBytes, Direction::kHostToDevice};
  if (has("cuMemcpy3DPeer")) return {1, kWidth * kHeight * kDepth, Direction::kHostToDevice, true};
  if (has("cuMemcpy3D")) return {1, kWidth * kHeight * kDepth, Direction::kHostToDevice, true};
  if (has("cuMemcpy2D")) return {1, kWidth * kHeight, Direction::kHostToDevice, true};
  if (has("cuMemcpyPeer")) return {1, kBytes, Direction::kWithinDevice};
  if (has("HtoD") || has("HtoA")) return {1, kBytes, Direction::kHostToDevice};
  if (has("DtoH") || has("AtoH")) return {1, kBytes, Direction::kDeviceToHost};
  if (has("DtoD") || has("AtoA") || has("DtoA") || has("AtoD"))
    return {1, kBytes, Direction::kWithinDevice};
  if (has("cuMemcpy")) return {1, kBytes, Direction::kHostToDevice};
  if (has("cuMemset")) {
    const std::int64_t element = has("32") ? 4 : has("16") ? 2 : 1;
    if (has("D2D")) return {1, element * std::int64_t{kWidth * kHeight}, Direction::kSet, true};
    return {1, element * std::int64_t{kCount}, Direction::kSet};
  }
  if (has("PrefetchBatch")) return {kMembers, 6 * kBytes, Direction::kHostToDevice};
  if (has("Prefetch")) return {1, kMembers, Direction::kHostToDevice};  // `count` is bytes here
  if (has("WriteValue")) return {1, has("32") ? 4 : 8, Direction::kSet};
  if (has("BatchMemOp")) return {kMembers, 16, Direction::kSet};
  if (has("Decompress")) return {kMembers, 6 * kBytes, Direction::kHostToDevice};
  if (has("SetAccess") || has("MapArray") || has("MapResources"))
    return {kMembers, -1, Direction::kNone};
  return {1, -1, Direction::kNone};
}

void check(const Line& line, const std::string& base, AuditOp op) {
  auditor.clear();
  const std::uint64_t before = moved();
  const CUresult r = line.call();
  const Expected want = expected(base);
  ASSERT_EQ(auditor.log.size(), want.entries);
  for (const Recorded& e : auditor.log) {
    EXPECT_EQ(e.event.op, op);
    EXPECT_EQ(e.event.kind, is_map(op) ? EntryKind::kMap : EntryKind::kTransfer);
    EXPECT_EQ(e.failed, r) << "a failure entry exactly if the driver refused";
    EXPECT_EQ(e.event.direction, want.direction);
    EXPECT_EQ(e.event.height != 0, want.shaped);
    const bool queued = base.ends_with("Async") || base.starts_with("cuStream");
    EXPECT_EQ((e.event.flags & abi::kAsynchronous) != 0, queued && !is_map(op));
    EXPECT_EQ((e.event.flags & abi::kBatchMember) != 0, want.entries > 1);
  }
  std::uint64_t bytes = 0;
  for (const Recorded& e : auditor.log) bytes += e.event.bytes;
  if (want.bytes >= 0) {
    EXPECT_EQ(bytes, static_cast<std::uint64_t>(want.bytes));
  }
  if (is_map(op)) return;
  EXPECT_EQ(auditor.counted, r == CUDA_SUCCESS ? bytes : 0);
  if (r == CUDA_SUCCESS && base.find("Prefetch") == std::string::npos) {
    EXPECT_EQ(moved() - before, bytes) << "what the driver moved";
  }
}

class TransferTable : public TransferTest {
 protected:
  void make_world() {
    w = World{};
    w.context = context_[0];
    w.peer = context_[0];
    w.a = device_[0];
    w.b = device_[0] + kBuffer / 2;
    w.managed = managed_;
    w.host = pinned_;
    w.array = array_;
    w.stream = stream_;
    fill_world();
  }
};

TEST_F(TransferTable, EveryFunctionEmitsItsEntries) {
  in_child([&] {
    make_world();
    int called = 0, moved_something = 0;
    for (const Line& line : kLines) {
      const std::string base = base_of(line.name);
      const AuditOp op = op_of(base);
      if (op == AuditOp::kNone || op == AuditOp::k_cuGraphLaunch) continue;
      SCOPED_TRACE(line.name);
      const std::uint64_t before = moved();
      check(line, base, op);
      ++called;
      moved_something += moved() != before ? 1 : 0;
    }
    EXPECT_GE(called, 150);
    EXPECT_GE(moved_something, 60) << "with these arguments the driver should do most of them";
  });
}

TEST_F(TransferTable, NoFunctionOfTheFamiliesLacksAnOperation) {
  std::set<std::string> used;
  for (const Line& line : kLines) {
    const std::string base = base_of(line.name), family = line.family;
    if (op_of(base) != AuditOp::kNone) used.insert(base);
    if (family != "transfer" && family != "map") continue;
    EXPECT_NE(op_of(base), AuditOp::kNone) << line.name << " has no code in audit_ops.def";
  }
  for (unsigned code = 1; code < 256; ++code) {
    const char* const name = abi::name_of(static_cast<AuditOp>(code));
    if (name != nullptr) {
      EXPECT_TRUE(used.contains(name)) << name << " is in audit_ops.def and nothing emits it";
    }
  }
}

// Broken variants: the check is not one that everything passes.
void check_unhooked() {
  check({"cuMemcpyHtoD_v2", "transfer", [] { return next.cuMemcpyHtoD_v2(w.a, w.host, kBytes); }},
        "cuMemcpyHtoD", AuditOp::k_cuMemcpyHtoD);
}
void check_mislabelled() {
  check({"cuMemsetD32_v2", "transfer", [] { return ::cuMemsetD16_v2(w.a, 0, kCount); }},
        "cuMemsetD32", AuditOp::k_cuMemsetD32);
}
TEST_F(TransferTable, AFunctionThatEmitsNothingOrTheWrongThingIsCaught) {
  in_child([&] {
    make_world();
    EXPECT_FATAL_FAILURE(check_unhooked(), "auditor.log.size()");
    ::testing::TestPartResultArray found;
    {
      const ::testing::ScopedFakeTestPartResultReporter catcher{
          ::testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &found};
      check_mislabelled();
    }
    EXPECT_EQ(found.size(), 2) << "the operation and the bytes";
  });
}

// The same calls with an auditor that refuses: none reaches the driver.
TEST_F(TransferTable, ARefusedCallMovesNothing) {
  in_child([&] {
    make_world();
    for (const Line& line : kLines) {
      const std::string base = base_of(line.name);
      const AuditOp op = op_of(base);
      if (op == AuditOp::kNone || op == AuditOp::k_cuGraphLaunch) continue;
      SCOPED_TRACE(line.name);
      auditor.clear();
      const std::size_t members = expected(base).entries;
      auditor.refuse_at = static_cast<long>(members) - 1;  // the last one
      w.failed = 77;
      const std::uint64_t before = moved();
      EXPECT_EQ(line.call(), CUDA_ERROR_NOT_PERMITTED);
      EXPECT_EQ(moved(), before);
      ASSERT_EQ(auditor.log.size(), members);
      for (std::size_t i = 0; i + 1 < members; ++i)
        EXPECT_EQ(auditor.log[i].failed, CUDA_ERROR_NOT_PERMITTED)
            << "let through, then not called";
      EXPECT_EQ(auditor.counted, 0u);
      const bool tells = std::string_view{line.name}.find("_v2") == std::string_view::npos &&
                         (base == "cuMemcpyBatchAsync" || base == "cuMemcpy3DBatchAsync");
      if (tells) {
        EXPECT_EQ(w.failed, kMembers - 1);
      }
    }
  });
}

// With nobody looking, nothing is asked and the driver moves the same.
TEST_F(TransferTable, WithoutAnAuditorNothingIsAsked) {
  in_child([&] {
    make_world();
    auditor.on = false;
    for (const Line& line : kLines) {
      const std::string base = base_of(line.name);
      const AuditOp op = op_of(base);
      if (op == AuditOp::kNone || op == AuditOp::k_cuGraphLaunch) continue;
      SCOPED_TRACE(line.name);
      auditor.clear();
      static_cast<void>(line.call());
      EXPECT_TRUE(auditor.log.empty());
    }
  });
}

}  // namespace
}  // namespace bulkhead::hook::test
