// Modules, libraries and their functions.
#pragma once
#include <string>

#include "kernels/kernels.h"
#include "sim/work.h"

namespace bulkhead::sim {

struct Module;

struct Function {
  std::string name;
  Module* module = nullptr;
  const kernels::Kernel* kernel = nullptr;  // nullptr: not one of ours, so it does nothing
  std::uint64_t local_bytes = 0;            // a thread's local memory
  std::uint64_t cost_ns = 5000;             // of a kernel that is not ours
  bool loaded = false;
  int max_dynamic_shared = 49152;
};

// A module, or a library (context nullptr: its functions may run in any context).
struct Module {
  Context* context = nullptr;
  bool library = false;
  std::string text;  // PTX; empty for a binary image
  std::uint64_t charged_bytes = 0;
  std::uint64_t lazy_bytes = 0;  // taken at the first launch of one of its functions
  unsigned unit = 0;
  std::map<std::string, Function*> functions;
  std::map<std::string, std::pair<CUdeviceptr, std::size_t>> globals;
};

Module* to_module(const void* h) noexcept;      // a CUmodule or CUlibrary
Function* to_function(const void* h) noexcept;  // a CUfunction or CUkernel
CUresult load_image(const void* image, Context* c, bool library, Module*& out) noexcept;
CUresult load_path(const char* path, Context* c, bool library, Module*& out) noexcept;
CUresult find_function(Module& m, const char* name, Function*& out) noexcept;
CUresult find_global(Module& m, const char* name, CUdeviceptr* at, std::size_t* bytes) noexcept;
void unload(Module* m) noexcept;
bool ensure_loaded(Function& f) noexcept;  // false: no room on the device

}  // namespace bulkhead::sim
