// A CUDA runtime program with the runtime linked in statically, in a tenant. Modes: fill, reset.
// Prints one line of JSON as the Python programs here do.
#include <cuda_runtime.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

__global__ void scale(float* x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] = 2 * static_cast<float>(i);
}

static const size_t kMiB = 1u << 20;

static size_t quota() {
  const char* text = std::getenv("BH_QUOTA");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 10ull << 30;
}

// A kernel whose result is looked at.
static bool works() {
  const int n = 1 << 20;
  float *x = nullptr, last = 0;
  if (cudaMalloc(&x, n * sizeof(float)) != cudaSuccess) return false;
  scale<<<(n + 255) / 256, 256>>>(x, n);
  const bool ok = cudaMemcpy(&last, x + n - 1, sizeof last, cudaMemcpyDeviceToHost) == cudaSuccess && last == 2.0f * (n - 1);
  return cudaFree(x) == cudaSuccess && ok;
}

struct Fill {
  std::vector<void*> held;
  size_t taken = 0;
  unsigned refusals = 0, wrong = 0, other_codes = 0;
};

static Fill fill() {
  Fill f;
  for (size_t n = 256 * kMiB; n >= 2 * kMiB;) {
    size_t left = 0, total = 0;
    cudaMemGetInfo(&left, &total);
    void* p = nullptr;
    const cudaError_t r = cudaMalloc(&p, n);
    if ((r == cudaSuccess) != (n <= left)) ++f.wrong;
    if (r == cudaSuccess) {
      f.held.push_back(p);
      f.taken += n;
      continue;
    }
    cudaGetLastError();
    ++f.refusals;
    if (r != cudaErrorMemoryAllocation) ++f.other_codes;
    const size_t fits = left / (2 * kMiB) * (2 * kMiB);
    n = (n / 2 < fits ? n / 2 : fits) / (2 * kMiB) * (2 * kMiB);
  }
  return f;
}

int main(int argc, char** argv) {
  const bool reset = argc > 1 && std::strcmp(argv[1], "reset") == 0;
  size_t left = 0, total = 0;
  cudaDeviceProp props{};
  bool ok = works();
  cudaMemGetInfo(&left, &total);
  cudaGetDeviceProperties(&props, 0);
  ok = ok && total == quota() && props.totalGlobalMem == quota();
  Fill f = fill();
  const size_t first = f.taken;
  if (reset) {  // gives all of it back at once; the second fill must find the same room
    ok = ok && cudaDeviceReset() == cudaSuccess && works();
    f = fill();
    ok = ok && f.taken == first;
  }
  usleep(100000);  // ten samples from outside of the full tenant
  for (void* p : f.held) cudaFree(p);
  ok = ok && works() && f.wrong == 0 && f.refusals > 0 && f.other_codes == 0;
  std::printf("{\"ok\": %s, \"total\": %zu, \"properties\": %zu, \"taken_bytes\": %zu, \"taken_before_reset\": %zu, "
              "\"refusals\": %u, \"wrong_answers\": %u, \"other_codes\": %u}\n",
              ok ? "true" : "false", total, props.totalGlobalMem, f.taken, first, f.refusals, f.wrong, f.other_codes);
  return 0;
}
