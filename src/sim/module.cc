// cuModule*, cuLibrary*, cuKernel* and cuFunc*.
#include <cstring>

#include "sim/api.h"
#include "sim/module.h"

namespace bulkhead::sim {
namespace {

CUresult load(CUmodule* out, const void* image) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Module* m = nullptr;
  const CUresult r = load_image(image, call.context, false, m);
  if (r == CUDA_SUCCESS) *out = reinterpret_cast<CUmodule>(m);
  return r;
}

// Libraries are charged to the context that is current when they load (the real driver loads into each
// context when it is first used there).
template <class F>
CUresult load_library(CUlibrary* out, F f) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Module* m = nullptr;
  const CUresult r = f(current_context(), m);
  if (r == CUDA_SUCCESS) *out = reinterpret_cast<CUlibrary>(m);
  return r;
}

template <class H>
CUresult function_of(H* out, const void* module, const char* name) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Module* m = to_module(module);
  if (m == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Function* f = nullptr;
  const CUresult r = find_function(*m, name, f);
  if (r == CUDA_SUCCESS) *out = reinterpret_cast<H>(f);
  return r;
}

CUresult global_of(CUdeviceptr* dptr, size_t* bytes, const void* module, const char* name) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  Module* m = to_module(module);
  return m == nullptr ? CUDA_ERROR_INVALID_HANDLE : find_global(*m, name, dptr, bytes);
}

CUresult drop(const void* h) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Module* m = to_module(h);
  if (m == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  unload(m);
  return CUDA_SUCCESS;
}

int attribute(const Function& f, CUfunction_attribute a) noexcept {
  switch (a) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      return 1024;
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
      return static_cast<int>(f.local_bytes);
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
      return 32;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
      return 70;
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
      return static_cast<int>(machine.profile.cc_major * 10 + machine.profile.cc_minor);
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
      return f.max_dynamic_shared;
    default:
      return 0;
  }
}

CUresult read(int* pi, CUfunction_attribute a, const void* h) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Function* f = to_function(h);
  if (f == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (pi == nullptr || a >= CU_FUNC_ATTRIBUTE_MAX) return CUDA_ERROR_INVALID_VALUE;
  *pi = attribute(*f, a);
  return CUDA_SUCCESS;
}

CUresult write(const void* h, CUfunction_attribute a, int value) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Function* f = to_function(h);
  if (f == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (a >= CU_FUNC_ATTRIBUTE_MAX) return CUDA_ERROR_INVALID_VALUE;
  if (a == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) f->max_dynamic_shared = value;
  return CUDA_SUCCESS;
}

CUresult name_of(const char** name, const void* h) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Function* f = to_function(h);
  if (f == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *name = f->name.c_str();
  return CUDA_SUCCESS;
}

CUresult parameter(const void* h, size_t index, size_t* offset, size_t* size) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Function* f = to_function(h);
  if (f == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (f->kernel == nullptr || offset == nullptr || index >= f->kernel->args) return CUDA_ERROR_INVALID_VALUE;
  std::size_t at = 0;
  for (std::size_t i = 0;; ++i) {
    at = round_up(at, f->kernel->arg_bytes[i]);
    if (i == index) break;
    at += f->kernel->arg_bytes[i];
  }
  *offset = at;
  if (size != nullptr) *size = f->kernel->arg_bytes[index];
  return CUDA_SUCCESS;
}

template <class H, class K>
CUresult convert(H* out, K from) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Function* f = to_function(from);
  if (f == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *out = reinterpret_cast<H>(f);
  return CUDA_SUCCESS;
}

}  // namespace

namespace api {

CUresult cuModuleLoadData(CUmodule* module, const void* image) noexcept { return load(module, image); }
CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned int, CUjit_option*, void**) noexcept {
  return load(module, image);
}
CUresult cuModuleLoadFatBinary(CUmodule* module, const void* fatCubin) noexcept {
  return load(module, fatCubin);
}
CUresult cuModuleLoad(CUmodule* module, const char* fname) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (module == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Module* m = nullptr;
  const CUresult r = load_path(fname, call.context, false, m);
  if (r == CUDA_SUCCESS) *module = reinterpret_cast<CUmodule>(m);
  return r;
}
CUresult cuModuleUnload(CUmodule hmod) noexcept { return drop(hmod); }
CUresult cuModuleGetFunction(CUfunction* hfunc, CUmodule hmod, const char* name) noexcept {
  return function_of(hfunc, hmod, name);
}
CUresult cuModuleGetGlobal_v2(CUdeviceptr* dptr, size_t* bytes, CUmodule hmod, const char* name) noexcept {
  return global_of(dptr, bytes, hmod, name);
}
CUresult cuModuleGetLoadingMode(CUmoduleLoadingMode* mode) noexcept {
  if (mode == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *mode = CU_MODULE_LAZY_LOADING;
  return CUDA_SUCCESS;
}

CUresult cuLibraryLoadData(CUlibrary* library, const void* code, CUjit_option*, void**, unsigned int,
                           CUlibraryOption*, void**, unsigned int) noexcept {
  return load_library(library, [&](Context* c, Module*& m) { return load_image(code, c, true, m); });
}
CUresult cuLibraryLoadFromFile(CUlibrary* library, const char* fileName, CUjit_option*, void**,
                               unsigned int, CUlibraryOption*, void**, unsigned int) noexcept {
  return load_library(library, [&](Context* c, Module*& m) { return load_path(fileName, c, true, m); });
}
CUresult cuLibraryUnload(CUlibrary library) noexcept { return drop(library); }
CUresult cuLibraryGetKernel(CUkernel* pKernel, CUlibrary library, const char* name) noexcept {
  return function_of(pKernel, library, name);
}
CUresult cuLibraryGetGlobal(CUdeviceptr* dptr, size_t* bytes, CUlibrary library, const char* name) noexcept {
  return global_of(dptr, bytes, library, name);
}
CUresult cuLibraryGetModule(CUmodule* pMod, CUlibrary library) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  Module* m = to_module(library);
  if (m == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (pMod == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *pMod = reinterpret_cast<CUmodule>(m);
  return CUDA_SUCCESS;
}

CUresult cuKernelGetFunction(CUfunction* pFunc, CUkernel kernel) noexcept { return convert(pFunc, kernel); }
CUresult cuKernelGetName(const char** name, CUkernel hfunc) noexcept { return name_of(name, hfunc); }
CUresult cuFuncGetName(const char** name, CUfunction hfunc) noexcept { return name_of(name, hfunc); }
CUresult cuKernelGetLibrary(CUlibrary* pLib, CUkernel kernel) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Function* f = to_function(kernel);
  if (f == nullptr || pLib == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  *pLib = reinterpret_cast<CUlibrary>(f->module);
  return CUDA_SUCCESS;
}
CUresult cuFuncGetModule(CUmodule* hmod, CUfunction hfunc) noexcept {
  return cuKernelGetLibrary(reinterpret_cast<CUlibrary*>(hmod), reinterpret_cast<CUkernel>(hfunc));
}
CUresult cuFuncGetAttribute(int* pi, CUfunction_attribute attrib, CUfunction hfunc) noexcept {
  return read(pi, attrib, hfunc);
}
CUresult cuKernelGetAttribute(int* pi, CUfunction_attribute attrib, CUkernel kernel, CUdevice) noexcept {
  return read(pi, attrib, kernel);
}
CUresult cuFuncSetAttribute(CUfunction hfunc, CUfunction_attribute attrib, int value) noexcept {
  return write(hfunc, attrib, value);
}
CUresult cuKernelSetAttribute(CUfunction_attribute attrib, int val, CUkernel kernel, CUdevice) noexcept {
  return write(kernel, attrib, val);
}
CUresult cuFuncSetCacheConfig(CUfunction hfunc, CUfunc_cache) noexcept {
  return write(hfunc, CU_FUNC_ATTRIBUTE_CACHE_MODE_CA, 0);
}
CUresult cuKernelSetCacheConfig(CUkernel kernel, CUfunc_cache, CUdevice) noexcept {
  return write(kernel, CU_FUNC_ATTRIBUTE_CACHE_MODE_CA, 0);
}
CUresult cuFuncSetSharedMemConfig(CUfunction hfunc, CUsharedconfig) noexcept {
  return write(hfunc, CU_FUNC_ATTRIBUTE_CACHE_MODE_CA, 0);
}
CUresult cuFuncGetParamInfo(CUfunction func, size_t i, size_t* offset, size_t* size) noexcept {
  return parameter(func, i, offset, size);
}
CUresult cuKernelGetParamInfo(CUkernel kernel, size_t i, size_t* offset, size_t* size) noexcept {
  return parameter(kernel, i, offset, size);
}

CUresult cuFuncIsLoaded(CUfunctionLoadingState* state, CUfunction function) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Function* f = to_function(function);
  if (f == nullptr || state == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *state = f->loaded ? CU_FUNCTION_LOADING_STATE_LOADED : CU_FUNCTION_LOADING_STATE_UNLOADED;
  return CUDA_SUCCESS;
}
CUresult cuFuncLoad(CUfunction function) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Function* f = to_function(function);
  if (f == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return ensure_loaded(*f) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

}  // namespace api
}  // namespace bulkhead::sim
