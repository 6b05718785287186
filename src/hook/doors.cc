// dlsym, dlvsym and cuGetProcAddress for our names: the real one is asked first, then its answer is
// substituted. dlsym.S comes here.
#include <dlfcn.h>

#include <cstring>

#include "hook/audit_count.h"
#include "hook/loader.h"
#include "hook/nccl.h"
#include "hook/next.h"
#include "hook/process.h"
#include "hook/resolve.h"
#include "hook/sniff.h"

namespace bulkhead::hook {
namespace {

struct Asked {
  void* handle;
  const char* name;
  const char* version;  // dlvsym's; null: dlsym
};

void* ask(const Asked& a, void* handle) noexcept {
  BH_TICKS_AWAY;  // what it costs without us
  return a.version == nullptr ? real_dlsym(handle, a.name) : real_dlvsym(handle, a.name, a.version);
}

bool same_object(void* a, void* b) noexcept {
  Dl_info one{}, two{};
  return ::dladdr(a, &one) != 0 && ::dladdr(b, &two) != 0 && one.dli_fbase == two.dli_fbase;
}

// The look-up found our own export, which stands before the driver's in every scope. The answer is
// ours only if the driver is loaded and has the function; else it is what it would be without us.
void* ours_if_real(const Asked& a, void* ours) noexcept {
  const bool nvml = a.name[0] == 'n';
  if (!(nvml ? resolve_nvml(Load::kNo) : resolve_cuda(Load::kNo))) return ask(a, RTLD_NEXT);
  // loaded already, so this only names it; kept: its pointers are in our tables
  void* library = ::dlopen(nvml ? "libnvidia-ml.so.1" : "libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
  return library != nullptr && real_dlsym(library, a.name) != nullptr ? ours : nullptr;
}

// From our frame RTLD_NEXT means "after us", and for a program or library before or after us that
// is the driver's function, unless the caller itself defines the name: then the driver's by name.
void* find(const Asked& a, void* caller) noexcept {
  if (a.name[0] == 'n' && a.name[1] == 'c')  // NCCL may be there in several copies
    return nccl_answer(a.name, ask(a, a.handle), caller);
  void* found = ask(a, a.handle);
  if (found == nullptr) return nullptr;
  void* const ours = export_of(a.name);
  if (ours == nullptr) return found;
  const bool itself = a.handle == RTLD_NEXT && same_object(found, caller);
  return found == ours || itself ? ours_if_real(a, ours) : found;
}

[[gnu::cold]] void not_in_the_table(const char* name) noexcept {
  count(Count::kUncovered);
  note_unresolved(name);
}

// Behind cuGetExportTable lie functions that nobody sees.
void look_for_tables(const char* name) noexcept {
  if (std::strcmp(name, "cuGetExportTable") == 0) note_export_table();
}

void* door(Door which, const Asked& a, void* caller) noexcept {
  BH_TICKS_IN;
  const Undisturbed keep;
  void* const found = find(a, caller);
  Answer answer = found == nullptr ? Answer::kNone : Answer::kDriver;
  void* result = found;
  const bool nccl = a.name[0] == 'n' && a.name[1] == 'c';
  if (found != nullptr && !inside && wanted() && !nccl) {
    static_cast<void>(a.name[0] == 'n' ? resolve_nvml(Load::kNo) : resolve_cuda(Load::kNo));
    void* const ours = substitute(found);
    if (ours != nullptr) {
      result = ours;
    } else if (found != export_of(a.name) && (hooked_name(a.name) || moving_name(a.name))) {
      not_in_the_table(a.name);
    } else if (a.name[0] == 'c') {
      look_for_tables(a.name);
    }
  }
  if (result != nullptr && (result != found || result == export_of(a.name))) answer = Answer::kOurs;
  sniff(which, a.name, 0, answer);
  return result;
}

// The driver's answer, substituted. `pfn` was written by the driver.
CUresult answered(CUresult r, const char* symbol, void** pfn, int version) noexcept {
  if (r != CUDA_SUCCESS || pfn == nullptr || *pfn == nullptr) {
    if (symbol != nullptr) sniff(Door::kProcAddress, symbol, version, Answer::kNone);
    return r;
  }
  void* const ours = wanted() ? substitute(*pfn) : nullptr;
  sniff(Door::kProcAddress, symbol, version, ours != nullptr ? Answer::kOurs : Answer::kDriver);
  if (ours != nullptr) {
    *pfn = ours;
  } else if (wanted() && (hooked_name(symbol) || moving_name(symbol))) {
    not_in_the_table(symbol);
  } else if (wanted()) {
    look_for_tables(symbol);
  }
  return r;
}

}  // namespace

CUresult cuGetProcAddress(const char* symbol, void** pfn, int cudaVersion,
                          cuuint64_t flags) noexcept {
  return answered(next.cuGetProcAddress(symbol, pfn, cudaVersion, flags), symbol, pfn, cudaVersion);
}

CUresult cuGetProcAddress_v2(const char* symbol, void** pfn, int cudaVersion, cuuint64_t flags,
                             CUdriverProcAddressQueryResult* symbolStatus) noexcept {
  return answered(next.cuGetProcAddress_v2(symbol, pfn, cudaVersion, flags, symbolStatus), symbol,
                  pfn, cudaVersion);
}

}  // namespace bulkhead::hook

extern "C" {
void* bh_dlsym(void* handle, const char* name, void* caller) noexcept {
  using namespace bulkhead::hook;
  return door(Door::kDlsym, {handle, name, nullptr}, caller);
}
void* bh_dlvsym(void* handle, const char* name, const char* version, void* caller) noexcept {
  using namespace bulkhead::hook;
  if (version == nullptr) version = "";
  return door(Door::kDlvsym, {handle, name, version}, caller);
}
}

#if defined(BH_TICKS)
extern "C" [[gnu::visibility("default")]] unsigned long long bulkhead_ticks_inside() noexcept;
unsigned long long bulkhead_ticks_inside() noexcept {
  return bulkhead::hook::ticks_inside.load(std::memory_order_relaxed);  // a statistic
}
#endif
