// Directions and devices, streams and captures, batches, failures: what the table's own test does not look at.
#include <thread>

#include "hook/transfer_where.h"
#include "tests/hook/transfer_world.h"

namespace bulkhead::hook::test {
namespace {

class Transfer : public TransferTest {
 protected:
  static const AuditEvent& last() { return auditor.log.back().event; }
  // Where the bytes of a unified copy went, by what its entry says.
  Direction unified(CUdeviceptr dst, CUdeviceptr src) {
    auditor.clear();
    EXPECT_EQ(::cuMemcpy(dst, src, 256), CUDA_SUCCESS);
    EXPECT_EQ(auditor.log.size(), 1u);
    return last().direction;
  }
};

TEST_F(Transfer, AUnifiedCopyIsToldByItsTwoAddresses) {
  in_child([&] {
    static char pageable[4096];
    const auto host = reinterpret_cast<CUdeviceptr>(pageable);
    EXPECT_EQ(unified(device_[0], host), Direction::kHostToDevice);
    EXPECT_EQ(last().source_device, abi::kHostDevice);
    EXPECT_EQ(last().destination_device, 0);
    EXPECT_EQ(unified(host, device_[0] + 4096), Direction::kDeviceToHost);
    EXPECT_EQ(unified(device_[0] + 8192, pinned()), Direction::kHostToDevice);
    EXPECT_EQ(unified(device_[0], device_[0] + 65536), Direction::kWithinDevice);
    EXPECT_EQ(unified(host, pinned()), Direction::kHostToHost);
    EXPECT_EQ(auditor.counted, 0u) << "no device's copy";
    EXPECT_EQ(unified(managed_, pinned()), Direction::kUnknown);
    EXPECT_EQ(last().destination_device, abi::kRemoteDevice);
  });
}

TEST_F(Transfer, WithTwoDevicesEachSideHasItsOwn) {
  in_child(
      [&] {
        EXPECT_EQ(::cuMemcpyDtoD_v2(device_[1], device_[0] + 64, 256), CUDA_SUCCESS);
        EXPECT_EQ(last().direction, Direction::kBetweenDevices);
        EXPECT_EQ(last().source_device, 0);
        EXPECT_EQ(last().destination_device, 1);
        EXPECT_EQ(auditor.counted_as[static_cast<int>(CopyDirection::kPeer)], 256u);
        EXPECT_EQ(::cuMemcpyHtoD_v2(device_[1] + 512, pinned_, 64), CUDA_SUCCESS);
        EXPECT_EQ(last().destination_device, 1) << "where the bytes are, not whose call it was";
        EXPECT_EQ(::cuMemcpyPeer(device_[0], context_[0], device_[1], context_[1], 64),
                  CUDA_SUCCESS);
        EXPECT_EQ(last().direction, Direction::kBetweenDevices);
        EXPECT_EQ(last().source_device, 1);
        EXPECT_EQ(last().destination_device, 0);
        EXPECT_EQ(::cuMemsetD8_v2(device_[1], 0, 64), CUDA_SUCCESS);
        EXPECT_EQ(last().destination_device, 1);
        auditor.clear();
        EXPECT_EQ(::cuCtxEnablePeerAccess(context_[1], 0), CUDA_SUCCESS);
        EXPECT_EQ(last().kind, EntryKind::kMap);
        EXPECT_EQ(last().source_device, 0);
        EXPECT_EQ(last().destination_device, 1);
      },
      "h200x2");
}

// An address is another device's after its free: what was known of it must go.
TEST_F(Transfer, WhatWasFreedIsForgotten) {
  in_child(
      [&] {
        constexpr std::size_t kLarge = 8u << 20;
        CUdeviceptr first = 0, second = 0;
        ASSERT_EQ(::cuMemAlloc_v2(&first, kLarge), CUDA_SUCCESS);
        EXPECT_EQ(anywhere(first + kLarge / 2).device, 0);
        EXPECT_NE(places.load(), nullptr);
        ASSERT_EQ(::cuMemFree_v2(first), CUDA_SUCCESS);
        EXPECT_NE(anywhere(first + kLarge / 2).kind, Side::Kind::kDevice);
        ASSERT_EQ(DRIVER(cuCtxSetCurrent)(context_[1]), CUDA_SUCCESS);
        ASSERT_EQ(::cuMemAlloc_v2(&second, kLarge), CUDA_SUCCESS);
        EXPECT_EQ(anywhere(second).device, 1);
        // the broken variant: a free that tells nobody leaves the old answer
        ASSERT_EQ(next.cuMemFree_v2(second), CUDA_SUCCESS);
        EXPECT_EQ(anywhere(second).device, 1);
      },
      "h200x2");
}

TEST_F(Transfer, AnAllocationIsAskedForOnce) {
  in_child([&] {
    static int asked = 0;
    static auto real = DRIVER(cuPointerGetAttributes);
    const auto counting =
        +[](unsigned n, CUpointer_attribute* what, void** out, CUdeviceptr p) noexcept {
          ++asked;
          return real(n, what, out, p);
        };
    next.cuPointerGetAttributes.set(reinterpret_cast<void*>(counting));
    CUdeviceptr large = 0;
    ASSERT_EQ(::cuMemAlloc_v2(&large, 64u << 20), CUDA_SUCCESS);
    for (unsigned i = 0; i < 64; ++i) {
      EXPECT_EQ(::cuMemcpyAsync(large + (i << 20), large + ((63 - i) << 20), 64, stream_),
                CUDA_SUCCESS);
    }
    EXPECT_EQ(asked, 1);
    for (unsigned i = 0; i < 64; ++i)
      EXPECT_EQ(::cuMemcpyHtoDAsync_v2(large, pinned_, 64, stream_), CUDA_SUCCESS);
    EXPECT_EQ(asked, 1) << "one device: a side that is a device's needs no question";
  });
}

TEST_F(Transfer, AShapedCopyCarriesItsGeometry) {
  in_child([&] {
    CUDA_MEMCPY3D c{};
    c.srcMemoryType = CU_MEMORYTYPE_DEVICE;
    c.srcDevice = device_[0];
    c.srcPitch = 256;
    c.srcHeight = 8;
    c.srcXInBytes = 16;
    c.srcY = 2;
    c.srcZ = 1;
    c.dstMemoryType = CU_MEMORYTYPE_HOST;
    c.dstHost = pinned_;
    c.dstPitch = 128;
    c.WidthInBytes = 96;
    c.Height = 4;
    c.Depth = 3;
    EXPECT_EQ(::cuMemcpy3DAsync_v2(&c, stream_), CUDA_SUCCESS);
    const AuditEvent& e = last();
    EXPECT_EQ(e.direction, Direction::kDeviceToHost);
    EXPECT_EQ(e.bytes, 96u * 4 * 3);
    EXPECT_EQ(e.source, device_[0] + (1 * 8 + 2) * 256 + 16) << "the first byte that is read";
    EXPECT_EQ(e.destination, pinned());
    EXPECT_EQ(e.width_bytes, 96u);
    EXPECT_EQ(e.height, 4u);
    EXPECT_EQ(e.depth, 3u);
    EXPECT_EQ(e.pitch, 256u);
    EXPECT_EQ(::cuMemsetD2D32_v2(device_[0], 1024, 7, 16, 8), CUDA_SUCCESS);
    EXPECT_EQ(last().bytes, 16u * 4 * 8);
    EXPECT_EQ(last().width_bytes, 64u);
    EXPECT_EQ(last().pitch, 1024u);
    EXPECT_EQ(::cuMemcpyHtoD_v2(device_[0], pinned_, 64), CUDA_SUCCESS);
    EXPECT_EQ(last().width_bytes | last().height | last().depth | last().pitch, 0u);
  });
}

TEST_F(Transfer, LengthsThatNoEntryHoldsAreCutAndRefusedByTheDriver) {
  in_child([&] {
    EXPECT_NE(::cuMemcpyHtoD_v2(device_[0], pinned_, ~std::size_t{0}), CUDA_SUCCESS);
    EXPECT_EQ(last().bytes, (std::uint64_t{1} << 48) - 1);
    EXPECT_NE(auditor.log.back().failed, CUDA_SUCCESS);
    EXPECT_NE(::cuMemsetD2D32_v2(device_[0], 1024, 7, std::size_t{1} << 60, 8), CUDA_SUCCESS);
    EXPECT_EQ(last().bytes, (std::uint64_t{1} << 48) - 1);
    EXPECT_EQ(auditor.counted, 0u);
  });
}

TEST_F(Transfer, StreamsAreNumberedInTheOrderOfTheirFirstTransfer) {
  in_child([&] {
    CUstream more[3];
    for (CUstream& s : more) ASSERT_EQ(DRIVER(cuStreamCreate)(&s, 0), CUDA_SUCCESS);
    const auto ordinal = [&](CUstream s) {
      EXPECT_EQ(::cuMemcpyHtoDAsync_v2(device_[0], pinned_, 4, s), CUDA_SUCCESS);
      return last().stream;
    };
    EXPECT_EQ(ordinal(nullptr), 0);
    EXPECT_EQ(ordinal(more[2]), 1);
    EXPECT_EQ(ordinal(more[0]), 2);
    EXPECT_EQ(ordinal(more[2]), 1);
    ASSERT_EQ(::cuStreamDestroy_v2(more[2]), CUDA_SUCCESS);
    EXPECT_EQ(stream_ordinal(more[2]), 3) << "a stream at the same address is another one";
    EXPECT_EQ(::cuMemcpyHtoD_v2(device_[0], pinned_, 4), CUDA_SUCCESS);
    EXPECT_EQ(last().stream, 0);
  });
}

TEST_F(Transfer, WhatIsCapturedIsNotRecorded) {
  in_child([&] {
    const std::uint64_t before = moved();
    ASSERT_EQ(::cuStreamBeginCapture_v2(stream_, CU_STREAM_CAPTURE_MODE_RELAXED), CUDA_SUCCESS);
    EXPECT_EQ(::cuMemcpyHtoDAsync_v2(device_[0], pinned_, 4096, stream_), CUDA_SUCCESS);
    EXPECT_EQ(::cuMemsetD8Async(device_[0], 1, 512, stream_), CUDA_SUCCESS);
    EXPECT_TRUE(auditor.log.empty());
    EXPECT_EQ(auditor.counted, 0u);
    // another stream goes on
    CUstream other = nullptr;
    ASSERT_EQ(DRIVER(cuStreamCreate)(&other, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
    EXPECT_EQ(::cuMemcpyHtoDAsync_v2(device_[0], pinned_, 128, other), CUDA_SUCCESS);
    EXPECT_EQ(auditor.bytes(), 128u);
    CUgraph graph = nullptr;
    ASSERT_EQ(::cuStreamEndCapture(stream_, &graph), CUDA_SUCCESS);
    EXPECT_EQ(moved() - before, 128u);
    EXPECT_EQ(::cuMemcpyHtoDAsync_v2(device_[0], pinned_, 64, stream_), CUDA_SUCCESS);
    EXPECT_EQ(auditor.bytes(), 192u);
  });
}

// The driver calls itself through its own exports: that is part of the call that was recorded.
TEST_F(Transfer, ACallOfTheDriversOwnIsNotCountedTwice) {
  in_child([&] {
    const auto through_exports = +[](CUdeviceptr dst, const void* src, size_t n) noexcept {
      return ::cuMemcpyHtoDAsync_v2(dst, src, n, nullptr);
    };
    next.cuMemcpyHtoD_v2.set(reinterpret_cast<void*>(through_exports));
    EXPECT_EQ(::cuMemcpyHtoD_v2(device_[0], pinned_, 256), CUDA_SUCCESS);
    ASSERT_EQ(auditor.log.size(), 1u);
    EXPECT_EQ(last().op, AuditOp::k_cuMemcpyHtoD);
    EXPECT_EQ(auditor.counted, 256u);
  });
}

// More members than the stack holds tickets for: all are recorded, and all fail if the driver refuses.
TEST_F(Transfer, ALargeBatchIsWholeOrNot) {
  in_child([&] {
    constexpr std::size_t kMany = 1000;
    std::vector<CUdeviceptr> to(kMany), from(kMany);
    std::vector<std::size_t> sizes(kMany, 16);
    for (std::size_t i = 0; i < kMany; ++i) {
      to[i] = device_[0] + i * 16;
      from[i] = pinned() + i * 16;
    }
    std::size_t failed = 0;
    const auto call = [&] {
      return ::cuMemcpyBatchAsync(to.data(), from.data(), sizes.data(), kMany, nullptr, nullptr, 0,
                                  &failed, stream_);
    };
    EXPECT_EQ(call(), CUDA_SUCCESS);
    EXPECT_EQ(auditor.log.size(), kMany);
    EXPECT_EQ(auditor.bytes(), kMany * 16);
    EXPECT_EQ(auditor.counted, kMany * 16);
    EXPECT_EQ(auditor.log[999].event.stream, 999) << "its index in the batch";
    auditor.clear();
    auditor.refuse_at = 700;
    EXPECT_EQ(call(), CUDA_ERROR_NOT_PERMITTED);
    EXPECT_EQ(failed, 700u);
    EXPECT_EQ(auditor.log.size(), 701u);
    EXPECT_EQ(auditor.bytes(), 0u);
    auditor.clear();
    to[0] = device_[0] + kBuffer - 8;  // past its end
    EXPECT_NE(call(), CUDA_SUCCESS);
    EXPECT_EQ(failed, 0u);
    EXPECT_EQ(auditor.log.size(), kMany);
    EXPECT_EQ(auditor.bytes(), 0u);
  });
}

TEST_F(Transfer, WhatIsMissingIsTheDriversToRefuse) {
  in_child([&] {
    EXPECT_NE(::cuMemcpy2D_v2(nullptr), CUDA_SUCCESS);
    EXPECT_NE(::cuMemcpy3DPeerAsync(nullptr, stream_), CUDA_SUCCESS);
    EXPECT_NE(
        ::cuMemcpyBatchAsync(nullptr, nullptr, nullptr, 3, nullptr, nullptr, 0, nullptr, stream_),
        CUDA_SUCCESS);
    EXPECT_NE(::cuMemcpy3DBatchAsync(2, nullptr, nullptr, 0, stream_), CUDA_SUCCESS);
    EXPECT_NE(::cuStreamBatchMemOp_v2(stream_, 1, nullptr, 0), CUDA_SUCCESS);
    EXPECT_NE(::cuMemSetAccess(device_[0], 4096, nullptr, 1), CUDA_SUCCESS);
    EXPECT_TRUE(auditor.log.empty());
  });
}

// A driver newer than the table: what it hands out is not ours, and that shows.
TEST_F(Transfer, ANewerDriversCopyIsCountedAsUncovered) {
  in_child([&] {
    static int somewhere = 0;
    const auto newer =
        +[](const char*, void** pfn, int, cuuint64_t, CUdriverProcAddressQueryResult*) noexcept {
          *pfn = &somewhere;
          return CUDA_SUCCESS;
        };
    next.cuGetProcAddress_v2.set(reinterpret_cast<void*>(newer));
    const auto uncovered = [] { return place_now().slot->uncovered.load(); };
    const auto ask = [](const char* name) {
      void* p = nullptr;
      EXPECT_EQ(::cuGetProcAddress_v2(name, &p, 13020, 0, nullptr), CUDA_SUCCESS);
      EXPECT_EQ(p, &somewhere);
    };
    const auto before = uncovered();
    ask("cuMemcpyWithAttributesAsync");
    EXPECT_EQ(uncovered(), before + 1);
    ask("cuDeviceGetSomethingNew");
    EXPECT_EQ(uncovered(), before + 1);
    ask("cuMemsetD8");
    EXPECT_EQ(uncovered(), before + 2) << "a hooked name at an address that is not the driver's";
  });
}

// What a training step does: weights in, batches in by pinned memory on two streams, sets, copies within, results out, from two
// threads. What was counted is what the driver moved.
TEST_F(Transfer, ATrainingRunsBytesAreTheDriversBytes) {
  in_child([&] {
    const std::uint64_t before = moved();
    CUdeviceptr weights = 0, gradients = 0;
    CUstream copies = nullptr;
    ASSERT_EQ(::cuMemAlloc_v2(&weights, 16u << 20), CUDA_SUCCESS);
    ASSERT_EQ(::cuMemAllocAsync(&gradients, 16u << 20, stream_), CUDA_SUCCESS);
    ASSERT_EQ(DRIVER(cuStreamCreate)(&copies, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
    std::vector<char> file(4u << 20, 'w');
    for (unsigned i = 0; i < 4; ++i)
      EXPECT_EQ(::cuMemcpyHtoD_v2(weights + i * file.size(), file.data(), file.size()),
                CUDA_SUCCESS);
    for (int step = 0; step < 20; ++step) {
      EXPECT_EQ(::cuMemcpyHtoDAsync_v2(device_[0], pinned_, 256u << 10, copies), CUDA_SUCCESS);
      EXPECT_EQ(::cuMemsetD32Async(gradients, 0, 4u << 20, stream_), CUDA_SUCCESS);
      EXPECT_EQ(::cuMemcpyDtoDAsync_v2(gradients, weights, 1u << 20, stream_), CUDA_SUCCESS);
      EXPECT_EQ(::cuMemcpyAsync(weights, gradients, 4096, stream_), CUDA_SUCCESS);
      float loss = 0;
      EXPECT_EQ(::cuMemcpyDtoHAsync_v2(&loss, gradients, sizeof loss, stream_), CUDA_SUCCESS);
      EXPECT_EQ(::cuStreamSynchronize(stream_), CUDA_SUCCESS);
      EXPECT_EQ(::cuStreamWriteValue32_v2(copies, device_[0], 1, 0), CUDA_SUCCESS);
    }
    std::vector<char> checkpoint(16u << 20);
    EXPECT_EQ(::cuMemcpyDtoH_v2(checkpoint.data(), weights, checkpoint.size()), CUDA_SUCCESS);
    EXPECT_NE(::cuMemcpyHtoD_v2(4096, pinned_, 64), CUDA_SUCCESS);  // a mistake on the way
    EXPECT_EQ(auditor.bytes(), moved() - before);
    EXPECT_EQ(auditor.counted, moved() - before);
    EXPECT_EQ(auditor.log.back().failed != CUDA_SUCCESS, true);
  });
}

}  // namespace
}  // namespace bulkhead::hook::test
