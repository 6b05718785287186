#include "cli/demo.h"
namespace bulkhead::cli {
int demo(const DemoOptions&) { return 125; }
}  // namespace bulkhead::cli
