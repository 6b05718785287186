// A share of time without a quota of memory: docs/adr/0005-a-share-alone-brings-its-part-of-memory.md.
#pragma once
#include "cli/machine.h"
#include "cli/request.h"
#include "wire/client.h"

namespace bulkhead::cli {

// If `request` asks for a tenant that is not there yet, with a share and without a word of memory, its quota becomes the same part of
// each GPU's memory; whether that was done. `daemon` is asked for the caller's tenant if it is ok().
bool give_memory_like_share(Request& request, const Machine& machine, wire::Client& daemon);

}  // namespace bulkhead::cli
