// What is in an image. PTX is read as far as names, globals and local memory go; of a cubin or fatbin
// nothing but its kind is known, so any function name is found in it.
//
// A PTX image may say in a comment what the driver shall take for it, to stand for large libraries:
//   bulkhead-sim-bytes=N        at load            bulkhead-sim-lazy-bytes=N   at the first launch
//   bulkhead-sim-ns=N           what a kernel takes: within an entry for it, before the first for all of them
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <new>

#include "base/fd.h"
#include "sim/family.h"
#include "sim/module.h"

namespace bulkhead::sim {
namespace {

std::unordered_set<Module*>& modules() noexcept {
  static auto* set = new std::unordered_set<Module*>;
  return *set;
}
std::unordered_set<Function*>& functions() noexcept {
  static auto* set = new std::unordered_set<Function*>;
  return *set;
}

enum class ImageKind { kNone, kPtx, kBinary };

ImageKind kind_of(const void* image) noexcept {
  const auto* c = static_cast<const char*>(image);
  if (std::memcmp(c, "\177ELF", 4) == 0) return ImageKind::kBinary;
  if (std::memcmp(c, "\x50\xed\x55\xba", 4) == 0) return ImageKind::kBinary;  // fatbin, 0xba55ed50
  if (std::memcmp(c, "\xb1\x43\x62\x46", 4) == 0)
    return ImageKind::kBinary;  // its wrapper, 0x466243b1
  // PTX is text: blanks and comments, then a directive.
  const std::size_t n = strnlen(c, 1 << 20);
  const std::string_view text{c, n};
  return text.find(".version") != std::string_view::npos ? ImageKind::kPtx : ImageKind::kNone;
}

std::uint64_t marked(const std::string& text, const char* mark) noexcept {
  const std::size_t at = text.find(mark);
  return at == std::string::npos
             ? 0
             : std::strtoull(text.c_str() + at + std::strlen(mark), nullptr, 10);
}

bool is_word(char c) noexcept {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '$';
}

// The position after "<directive> NAME", NAME a whole word; npos: not declared.
std::size_t declared(const std::string& text, const char* directive, const char* name) noexcept {
  const std::size_t length = std::strlen(name);
  for (std::size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + 1)) {
    if ((at != 0 && is_word(text[at - 1])) || is_word(text[at + length])) continue;
    const std::size_t start = text.find_last_of(";{}\n", at) + 1;
    if (text.substr(start, at - start).find(directive) != std::string::npos) return at + length;
  }
  return std::string::npos;
}

// Bytes of all .local variables of the entry whose parameter list begins at `at`.
std::uint64_t local_of(const std::string& text, std::size_t at) noexcept {
  const std::size_t end = text.find(".entry", at);
  std::uint64_t total = 0;
  for (std::size_t l = text.find(".local ", at); l < end && l != std::string::npos;
       l = text.find(".local ", l + 1)) {
    const std::size_t bracket = text.find('[', l), stop = text.find(';', l);
    if (text.compare(l, 9, ".local .a") != 0 || bracket > stop) continue;  // .align: a declaration
    total += std::strtoull(text.c_str() + bracket + 1, nullptr, 10);
  }
  return total;
}

// What the kernel whose parameter list begins at `at` is said to take; 0: nothing is said.
std::uint64_t said_cost(const std::string& text, std::size_t at) noexcept {
  const std::uint64_t own =
      marked(text.substr(at, text.find(".entry", at) - at), "bulkhead-sim-ns=");
  return own != 0 ? own : marked(text.substr(0, text.find(".entry")), "bulkhead-sim-ns=");
}

}  // namespace

Module* to_module(const void* h) noexcept {
  auto* m = static_cast<Module*>(const_cast<void*>(h));
  return modules().contains(m) ? m : nullptr;
}
Function* to_function(const void* h) noexcept {
  auto* f = static_cast<Function*>(const_cast<void*>(h));
  return functions().contains(f) ? f : nullptr;
}

CUresult load_image(const void* image, Context* c, bool library, Module*& out) noexcept {
  if (image == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const ImageKind kind = kind_of(image);
  if (kind == ImageKind::kNone) return CUDA_ERROR_INVALID_IMAGE;
  auto* m = new (std::nothrow) Module;
  if (m == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  if (kind == ImageKind::kPtx) m->text = static_cast<const char*>(image);
  m->context = c;
  m->library = library;
  m->unit = c != nullptr ? c->unit : 0;
  m->lazy_bytes = marked(m->text, "bulkhead-sim-lazy-bytes=");
  const std::uint64_t bytes = machine.profile.module_bytes + marked(m->text, "bulkhead-sim-bytes=");
  if (bytes != 0 && c != nullptr && !take_bytes(c->unit, bytes)) {
    delete m;
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  m->charged_bytes = c != nullptr ? bytes : 0;
  modules().insert(m);
  out = m;
  return CUDA_SUCCESS;
}

CUresult load_path(const char* path, Context* c, bool library, Module*& out) noexcept {
  if (path == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const UniqueFd fd{::open(path, O_RDONLY | O_CLOEXEC)};
  struct stat st {};
  if (!fd.ok() || ::fstat(fd.get(), &st) != 0) return CUDA_ERROR_FILE_NOT_FOUND;
  std::string image(static_cast<std::size_t>(st.st_size) + 8, '\0');
  std::size_t have = 0;
  while (have < static_cast<std::size_t>(st.st_size)) {
    const ssize_t n =
        ::read(fd.get(), image.data() + have, static_cast<std::size_t>(st.st_size) - have);
    if (n <= 0) return CUDA_ERROR_OPERATING_SYSTEM;
    have += static_cast<std::size_t>(n);
  }
  return load_image(image.data(), c, library, out);
}

CUresult find_function(Module& m, const char* name, Function*& out) noexcept {
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (const auto it = m.functions.find(name); it != m.functions.end()) {
    out = it->second;
    return CUDA_SUCCESS;
  }
  std::size_t at = 0;
  if (!m.text.empty()) {
    at = declared(m.text, ".entry", name);
    if (at == std::string::npos) return CUDA_ERROR_NOT_FOUND;
  }
  auto* f = new (std::nothrow) Function;
  if (f == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  f->name = name;
  f->module = &m;
  f->kernel = kernels::find(name);
  f->local_bytes = m.text.empty() ? 0 : local_of(m.text, at);
  if (const std::uint64_t ns = m.text.empty() ? 0 : said_cost(m.text, at); ns != 0) f->cost_ns = ns;
  m.functions.emplace(name, f);
  functions().insert(f);
  out = f;
  return CUDA_SUCCESS;
}

CUresult find_global(Module& m, const char* name, CUdeviceptr* to, std::size_t* bytes) noexcept {
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  auto it = m.globals.find(name);
  if (it == m.globals.end()) {
    const std::size_t at = m.text.empty() ? std::string::npos : declared(m.text, ".global", name);
    if (at == std::string::npos) return CUDA_ERROR_NOT_FOUND;
    const std::size_t start = m.text.find_last_of(";{}\n", at - 1) + 1;
    const std::string type = m.text.substr(start, at - start);
    const std::size_t width = type.find("64") != std::string::npos   ? 8
                              : type.find("32") != std::string::npos ? 4
                              : type.find("16") != std::string::npos ? 2
                                                                     : 1;
    const bool list = m.text[at] == '[';
    const std::size_t n = list ? std::strtoull(m.text.c_str() + at + 1, nullptr, 10) : 1;
    if (n == 0) return CUDA_ERROR_NOT_FOUND;
    Range r;  // lies in the module's own bytes, so it is not charged again
    r.kind = Kind::kHost;
    r.base = map_pages(round_up(n * width, 4096), -1);
    if (r.base == 0) return CUDA_ERROR_OUT_OF_MEMORY;
    r.bytes = n * width;
    r.context = m.context;
    add_range(r);
    it = m.globals.emplace(name, std::pair{r.base, r.bytes}).first;
  }
  if (to != nullptr) *to = it->second.first;
  if (bytes != nullptr) *bytes = it->second.second;
  return CUDA_SUCCESS;
}

void unload(Module* m) noexcept {
  for (const auto& [name, f] : m->functions) {
    functions().erase(f);
    delete f;
  }
  for (const auto& [name, g] : m->globals) release_range(g.first);
  if (m->charged_bytes != 0) give(m->unit, m->charged_bytes);
  modules().erase(m);
  delete m;
}

void release_modules(Context& c) noexcept {
  std::vector<Module*> mine;
  for (Module* m : modules()) {
    if (m->context == &c && !m->library) mine.push_back(m);
  }
  for (Module* m : mine) unload(m);
}

bool ensure_loaded(Function& f) noexcept {
  if (f.loaded) return true;
  Module& m = *f.module;
  if (m.lazy_bytes != 0) {
    if (!take_bytes(m.unit, m.lazy_bytes)) return false;
    m.charged_bytes += m.lazy_bytes;
    m.lazy_bytes = 0;
  }
  f.loaded = true;
  return true;
}

}  // namespace bulkhead::sim
