#include "cli/demo.h"
namespace bulkhead::cli {
int demo_worker() { return 125; }
}  // namespace bulkhead::cli
