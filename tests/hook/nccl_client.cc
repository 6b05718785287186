// Reaches NCCL in the ways that a link does not show:
//     nccl_client bundled RANK RANKS N US [ID]   through a library opened RTLD_LOCAL that is linked with it
//     nccl_client probe [LIB]                     asks for ncclCommInitRank as a program does that may lack NCCL: "default", "handle"
//     nccl_client two                             two copies, each with its own library: "one", "two" inits of each
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include <string>

namespace {
std::string beside(const char* self, const char* name) {
  const std::string path = self;
  return path.substr(0, path.rfind('/') + 1) + name;
}
int use(const std::string& library, int argc, char** argv) {
  void* const lib = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (lib == nullptr) return fprintf(stderr, "%s\n", dlerror()), 4;
  return reinterpret_cast<int (*)(int, char**)>(dlsym(lib, "nccl_user"))(argc, argv);
}
}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 3;
  const std::string how = argv[1];
  if (how == "bundled") return use(beside(argv[0], "libnccl_user.so"), argc - 1, argv + 1);
  if (how == "probe") {
    printf("default %d\n", dlsym(RTLD_DEFAULT, "ncclCommInitRank") != nullptr);
    printf("error %d\n", dlerror() != nullptr);
    void* const lib = dlopen(argc > 2 ? argv[2] : "libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    printf("handle %d\n", lib != nullptr && dlsym(lib, "ncclCommInitRank") != nullptr);
    printf("unknown %d\n", lib != nullptr && dlsym(lib, "ncclNoSuchThing") != nullptr);
    return 0;
  }
  if (how == "two") {
    char rank[] = "0", ranks[] = "1", n[] = "20", us[] = "0";
    char* args[] = {argv[0], rank, ranks, n, us, nullptr};
    if (const int r = use(beside(argv[0], "libnccl_user.so"), 5, args); r != 0) return r;
    return use(beside(argv[0], "other/libnccl_other_user.so"), 5, args);
  }
  return 3;
}
