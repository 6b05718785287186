// A driver-API program linked against libcuda (the ELF door), in a tenant. Modes: fill, contexts.
// Prints one line of JSON as the Python programs here do.
#include <cuda.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

static const size_t kMiB = 1u << 20;

static size_t quota() {
  const char* text = std::getenv("BH_QUOTA");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 10ull << 30;
}

struct Fill {
  std::vector<CUdeviceptr> held;
  size_t taken = 0;
  unsigned refusals = 0, wrong = 0;
};

static void fill(Fill& f) {
  for (size_t n = 256 * kMiB; n >= 2 * kMiB;) {
    size_t left = 0, total = 0;
    cuMemGetInfo(&left, &total);
    CUdeviceptr p = 0;
    const CUresult r = cuMemAlloc(&p, n);
    if ((r == CUDA_SUCCESS) != (n <= left) || (r != CUDA_SUCCESS && r != CUDA_ERROR_OUT_OF_MEMORY))
      ++f.wrong;
    if (r == CUDA_SUCCESS) {
      f.held.push_back(p);
      f.taken += n;
      continue;
    }
    ++f.refusals;
    const size_t fits = left / (2 * kMiB) * (2 * kMiB);
    n = (n / 2 < fits ? n / 2 : fits) / (2 * kMiB) * (2 * kMiB);
  }
}

int main(int argc, char** argv) {
  const bool contexts = argc > 1 && std::strcmp(argv[1], "contexts") == 0;
  CUcontext primary = nullptr, more[3] = {};
  size_t total = 0, left = 0, device_total = 0;
  bool ok = cuInit(0) == CUDA_SUCCESS && cuDevicePrimaryCtxRetain(&primary, 0) == CUDA_SUCCESS &&
            cuCtxSetCurrent(primary) == CUDA_SUCCESS;
  cuMemGetInfo(&left, &total);
  cuDeviceTotalMem(&device_total, 0);
  ok = ok && total == quota() && device_total == quota();
  Fill first, last;
  if (contexts) {  // memory taken in one is gone for the others; a destroyed context gives its own back
    for (CUcontext& c : more) {
#if CUDA_VERSION >= 13000
      ok = ok && cuCtxCreate(&c, nullptr, 0, 0) == CUDA_SUCCESS;
#else
      ok = ok && cuCtxCreate(&c, 0, 0) == CUDA_SUCCESS;
#endif
    }
    fill(first);  // in the context made last
    ok = ok && cuCtxSetCurrent(primary) == CUDA_SUCCESS;
    CUdeviceptr p = 0;
    ok = ok && cuMemAlloc(&p, 64 * kMiB) == CUDA_ERROR_OUT_OF_MEMORY;
    ok = ok && cuCtxDestroy(more[2]) == CUDA_SUCCESS;
    fill(last);
    ok = ok && last.taken >= first.taken;
  } else {
    fill(first);
  }
  usleep(100000);  // ten samples from outside of the full tenant
  ok = ok && first.wrong == 0 && last.wrong == 0 && first.refusals > 0;
  std::printf(
      "{\"ok\": %s, \"total\": %zu, \"device_total\": %zu, \"taken_bytes\": %zu, \"taken_after\": "
      "%zu, \"wrong_answers\": %u}\n",
      ok ? "true" : "false", total, device_total, first.taken, last.taken,
      first.wrong + last.wrong);
  return 0;
}
