// cuGetProcAddress: base name, version and per-thread flag to the exact entry point.
#include <cstdio>
#include <cstring>
#include <string_view>

#include "sim/api.h"
#include "sim/exports.h"
#include "sim/model.h"

namespace bulkhead::sim {
namespace {

bool digits(std::string_view s) noexcept {
  for (const char c : s) {
    if (c < '0' || c > '9') return false;
  }
  return !s.empty();
}

// True if `name` is `base`, or `base_vN`, followed by `twin` ("", "_ptsz" or "_ptds").
bool version_of(std::string_view name, std::string_view base, std::string_view twin) noexcept {
  if (!name.starts_with(base) || !name.ends_with(twin)) return false;
  if (name.size() < base.size() + twin.size()) return false;
  std::string_view middle = name.substr(base.size(), name.size() - base.size() - twin.size());
  return middle.empty() || (middle.starts_with("_v") && digits(middle.substr(2)));
}

// The newest entry point for `version`; `known`: some version has the name.
const Export* newest(std::string_view base, std::string_view twin, int version,
                     bool& known) noexcept {
  const Export* best = nullptr;
  for (const Export& e : exports()) {
    if (!version_of(e.name, base, twin)) continue;
    known = true;
    if (e.since > version || (best != nullptr && best->since > e.since)) continue;
    // Equal `since`: the later suffix wins (a plain name is shorter than its _vN).
    if (best != nullptr && best->since == e.since &&
        std::strlen(e.name) < std::strlen(best->name)) {
      continue;
    }
    best = &e;
  }
  return best;
}

CUdriverProcAddressQueryResult resolve(const char* symbol, int version, cuuint64_t flags,
                                       void** pfn) noexcept {
  *pfn = nullptr;
  bool known = false;
  const Export* found = nullptr;
  if ((flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0) {
    for (const char* twin : {"_ptsz", "_ptds"}) {
      if (found == nullptr) found = newest(symbol, twin, version, known);
    }
  }
  // A function may have a plain form that is newer than its per-thread twin's base.
  const Export* plain = newest(symbol, "", version, known);
  if (found == nullptr) found = plain;
  if (found == nullptr) {
    return known ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT
                 : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  }
  *pfn = reinterpret_cast<void*>(found->at);
  return CU_GET_PROC_ADDRESS_SUCCESS;
}

bool good(const char* symbol, void** pfn, int version, cuuint64_t flags) noexcept {
  return symbol != nullptr && pfn != nullptr && version <= 13000 && version >= 2000 && flags <= 2;
}

}  // namespace

CUresult api::cuGetProcAddress_v2(const char* symbol, void** pfn, int cudaVersion, cuuint64_t flags,
                                  CUdriverProcAddressQueryResult* symbolStatus) noexcept {
  if (!good(symbol, pfn, cudaVersion, flags)) return CUDA_ERROR_INVALID_VALUE;
  const CUdriverProcAddressQueryResult status = resolve(symbol, cudaVersion, flags, pfn);
  if (symbolStatus != nullptr) {
    *symbolStatus = status;
    return CUDA_SUCCESS;
  }
  return status == CU_GET_PROC_ADDRESS_SUCCESS ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

CUresult api::cuGetProcAddress(const char* symbol, void** pfn, int cudaVersion,
                               cuuint64_t flags) noexcept {
  if (!good(symbol, pfn, cudaVersion, flags)) return CUDA_ERROR_INVALID_VALUE;
  const bool found = resolve(symbol, cudaVersion, flags, pfn) == CU_GET_PROC_ADDRESS_SUCCESS;
  return found ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

// The private tables are not simulated: the real runtime library refuses to start without them.
CUresult api::cuGetExportTable(const void** ppExportTable,
                               const CUuuid* /*pExportTableId*/) noexcept {
  if (ppExportTable == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *ppExportTable = nullptr;
  return CUDA_ERROR_NOT_FOUND;
}

CUresult api::cuDriverGetVersion(int* driverVersion) noexcept {
  if (driverVersion == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *driverVersion = 13000;
  return CUDA_SUCCESS;
}

}  // namespace bulkhead::sim
