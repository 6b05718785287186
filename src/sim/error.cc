// Names and texts of the driver's errors. The names are the enumerators of abi/cuda_result.h.
#include <cstddef>
#include <string_view>

#include "sim/api.h"

namespace bulkhead::sim {
namespace {

struct Error {
  CUresult code;
  const char* name;
  const char* text;
};

#define BH_ERROR(code, text) \
  { code, #code, text }
constexpr Error kErrors[] = {
    BH_ERROR(CUDA_SUCCESS, "no error"),
    BH_ERROR(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
    BH_ERROR(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    BH_ERROR(CUDA_ERROR_NOT_INITIALIZED, "initialization error"),
    BH_ERROR(CUDA_ERROR_DEINITIALIZED, "driver shutting down"),
    BH_ERROR(CUDA_ERROR_PROFILER_DISABLED, "profiler disabled"),
    BH_ERROR(CUDA_ERROR_PROFILER_NOT_INITIALIZED, "profiler not initialized"),
    BH_ERROR(CUDA_ERROR_PROFILER_ALREADY_STARTED, "profiler already started"),
    BH_ERROR(CUDA_ERROR_PROFILER_ALREADY_STOPPED, "profiler already stopped"),
    BH_ERROR(CUDA_ERROR_STUB_LIBRARY, "stub library"),
    BH_ERROR(CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER, "call requires newer driver"),
    BH_ERROR(CUDA_ERROR_DEVICE_UNAVAILABLE, "device unavailable"),
    BH_ERROR(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected"),
    BH_ERROR(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
    BH_ERROR(CUDA_ERROR_DEVICE_NOT_LICENSED, "device not licensed"),
    BH_ERROR(CUDA_ERROR_INVALID_IMAGE, "invalid image"),
    BH_ERROR(CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
    BH_ERROR(CUDA_ERROR_CONTEXT_ALREADY_CURRENT, "context already current"),
    BH_ERROR(CUDA_ERROR_MAP_FAILED, "map failed"),
    BH_ERROR(CUDA_ERROR_UNMAP_FAILED, "unmap failed"),
    BH_ERROR(CUDA_ERROR_ARRAY_IS_MAPPED, "array is mapped"),
    BH_ERROR(CUDA_ERROR_ALREADY_MAPPED, "already mapped"),
    BH_ERROR(CUDA_ERROR_NO_BINARY_FOR_GPU, "no binary for gpu"),
    BH_ERROR(CUDA_ERROR_ALREADY_ACQUIRED, "already acquired"),
    BH_ERROR(CUDA_ERROR_NOT_MAPPED, "not mapped"),
    BH_ERROR(CUDA_ERROR_NOT_MAPPED_AS_ARRAY, "not mapped as array"),
    BH_ERROR(CUDA_ERROR_NOT_MAPPED_AS_POINTER, "not mapped as pointer"),
    BH_ERROR(CUDA_ERROR_ECC_UNCORRECTABLE, "ecc uncorrectable"),
    BH_ERROR(CUDA_ERROR_UNSUPPORTED_LIMIT, "unsupported limit"),
    BH_ERROR(CUDA_ERROR_CONTEXT_ALREADY_IN_USE, "context already in use"),
    BH_ERROR(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, "peer access unsupported"),
    BH_ERROR(CUDA_ERROR_INVALID_PTX, "invalid ptx"),
    BH_ERROR(CUDA_ERROR_INVALID_GRAPHICS_CONTEXT, "invalid graphics context"),
    BH_ERROR(CUDA_ERROR_NVLINK_UNCORRECTABLE, "nvlink uncorrectable"),
    BH_ERROR(CUDA_ERROR_JIT_COMPILER_NOT_FOUND, "jit compiler not found"),
    BH_ERROR(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "unsupported ptx version"),
    BH_ERROR(CUDA_ERROR_JIT_COMPILATION_DISABLED, "jit compilation disabled"),
    BH_ERROR(CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY, "unsupported exec affinity"),
    BH_ERROR(CUDA_ERROR_UNSUPPORTED_DEVSIDE_SYNC, "unsupported devside sync"),
    BH_ERROR(CUDA_ERROR_CONTAINED, "contained"),
    BH_ERROR(CUDA_ERROR_INVALID_SOURCE, "invalid source"),
    BH_ERROR(CUDA_ERROR_FILE_NOT_FOUND, "file not found"),
    BH_ERROR(CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND, "shared object symbol not found"),
    BH_ERROR(CUDA_ERROR_SHARED_OBJECT_INIT_FAILED, "shared object init failed"),
    BH_ERROR(CUDA_ERROR_OPERATING_SYSTEM, "operating system"),
    BH_ERROR(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
    BH_ERROR(CUDA_ERROR_ILLEGAL_STATE, "illegal state"),
    BH_ERROR(CUDA_ERROR_LOSSY_QUERY, "lossy query"),
    BH_ERROR(CUDA_ERROR_NOT_FOUND, "named symbol not found"),
    BH_ERROR(CUDA_ERROR_NOT_READY, "device not ready"),
    BH_ERROR(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
    BH_ERROR(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "launch out of resources"),
    BH_ERROR(CUDA_ERROR_LAUNCH_TIMEOUT, "launch timeout"),
    BH_ERROR(CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING, "launch incompatible texturing"),
    BH_ERROR(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, "peer access already enabled"),
    BH_ERROR(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, "peer access not enabled"),
    BH_ERROR(CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE, "primary context active"),
    BH_ERROR(CUDA_ERROR_CONTEXT_IS_DESTROYED, "context is destroyed"),
    BH_ERROR(CUDA_ERROR_ASSERT, "assert"),
    BH_ERROR(CUDA_ERROR_TOO_MANY_PEERS, "too many peers"),
    BH_ERROR(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "host memory already registered"),
    BH_ERROR(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "host memory not registered"),
    BH_ERROR(CUDA_ERROR_HARDWARE_STACK_ERROR, "hardware stack error"),
    BH_ERROR(CUDA_ERROR_ILLEGAL_INSTRUCTION, "illegal instruction"),
    BH_ERROR(CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned address"),
    BH_ERROR(CUDA_ERROR_INVALID_ADDRESS_SPACE, "invalid address space"),
    BH_ERROR(CUDA_ERROR_INVALID_PC, "invalid pc"),
    BH_ERROR(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure"),
    BH_ERROR(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, "cooperative launch too large"),
    BH_ERROR(CUDA_ERROR_TENSOR_MEMORY_LEAK, "tensor memory leak"),
    BH_ERROR(CUDA_ERROR_NOT_PERMITTED, "operation not permitted"),
    BH_ERROR(CUDA_ERROR_NOT_SUPPORTED, "operation not supported"),
    BH_ERROR(CUDA_ERROR_SYSTEM_NOT_READY, "system not ready"),
    BH_ERROR(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, "system driver mismatch"),
    BH_ERROR(CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE, "compat not supported on device"),
    BH_ERROR(CUDA_ERROR_MPS_CONNECTION_FAILED, "mps connection failed"),
    BH_ERROR(CUDA_ERROR_MPS_RPC_FAILURE, "mps rpc failure"),
    BH_ERROR(CUDA_ERROR_MPS_SERVER_NOT_READY, "mps server not ready"),
    BH_ERROR(CUDA_ERROR_MPS_MAX_CLIENTS_REACHED, "mps max clients reached"),
    BH_ERROR(CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED, "mps max connections reached"),
    BH_ERROR(CUDA_ERROR_MPS_CLIENT_TERMINATED, "mps client terminated"),
    BH_ERROR(CUDA_ERROR_CDP_NOT_SUPPORTED, "cdp not supported"),
    BH_ERROR(CUDA_ERROR_CDP_VERSION_MISMATCH, "cdp version mismatch"),
    BH_ERROR(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "stream capture unsupported"),
    BH_ERROR(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "stream capture invalidated"),
    BH_ERROR(CUDA_ERROR_STREAM_CAPTURE_MERGE, "stream capture merge"),
    BH_ERROR(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "stream capture unmatched"),
    BH_ERROR(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "stream capture unjoined"),
    BH_ERROR(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "stream capture isolation"),
    BH_ERROR(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "stream capture implicit"),
    BH_ERROR(CUDA_ERROR_CAPTURED_EVENT, "captured event"),
    BH_ERROR(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "stream capture wrong thread"),
    BH_ERROR(CUDA_ERROR_TIMEOUT, "timeout"),
    BH_ERROR(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, "graph exec update failure"),
    BH_ERROR(CUDA_ERROR_EXTERNAL_DEVICE, "external device"),
    BH_ERROR(CUDA_ERROR_INVALID_CLUSTER_SIZE, "invalid cluster size"),
    BH_ERROR(CUDA_ERROR_FUNCTION_NOT_LOADED, "function not loaded"),
    BH_ERROR(CUDA_ERROR_INVALID_RESOURCE_TYPE, "invalid resource type"),
    BH_ERROR(CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION, "invalid resource configuration"),
    BH_ERROR(CUDA_ERROR_KEY_ROTATION, "key rotation"),
    BH_ERROR(CUDA_ERROR_UNKNOWN, "unknown error"),
};
#undef BH_ERROR

const Error* find(CUresult code) noexcept {
  for (const Error& e : kErrors) {
    if (e.code == code) return &e;
  }
  return nullptr;
}

}  // namespace

CUresult api::cuGetErrorName(CUresult error, const char** pStr) noexcept {
  if (pStr == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Error* e = find(error);
  *pStr = e != nullptr ? e->name : nullptr;
  return e != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult api::cuGetErrorString(CUresult error, const char** pStr) noexcept {
  if (pStr == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Error* e = find(error);
  *pStr = e != nullptr ? e->text : nullptr;
  return e != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

}  // namespace bulkhead::sim
