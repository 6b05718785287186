// Who the simulated devices are: UUIDs and bus ids are functions of the index alone, so they are the
// same in every process and every run.
#pragma once
#include <cstddef>

namespace bulkhead::sim {

void gpu_uuid(unsigned gpu, unsigned char (&out)[16]) noexcept;
void mig_uuid(unsigned gpu, unsigned instance, unsigned char (&out)[16]) noexcept;
// "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx" or "MIG-..."; 41 bytes with the end.
void uuid_text(const unsigned char (&uuid)[16], bool mig, char (&out)[48]) noexcept;
inline unsigned pci_bus(unsigned gpu) noexcept { return 0x1b + 0x10 * gpu; }

// The units that CUDA_VISIBLE_DEVICES leaves to this process, in its order; -> how many. With MIG a
// process has one device: the first instance, or the one named. `text` null: not set.
unsigned visible_units(const char* text, unsigned* out, unsigned room) noexcept;

}  // namespace bulkhead::sim
