// Shared by the ledger's files: names of devices in messages, copies between records and the pure policy's types.
#pragma once
#include <cstring>
#include <string>

#include "daemon/compute.h"
#include "daemon/config.h"
#include "daemon/ledger.h"
#include "policy/authority.h"
#include "wire/parse.h"

namespace bulkhead::daemon {

inline policy::Asker asker_of(const Peer& peer) { return {peer.uid, peer.gid, peer.cgroup}; }

inline std::string gpu_text(const Capacity& c) {
  return "GPU " + std::to_string(c.index) + " (" + uuid_text(c.uuid) + ")";
}

inline const wire::DeviceGrant* grant_of(const wire::TenantRecord& r, const std::uint8_t* uuid) {
  for (unsigned i = 0; i < r.device_count; ++i) {
    if (std::memcmp(r.devices[i].uuid, uuid, wire::kUuidBytes) == 0) return &r.devices[i];
  }
  return nullptr;
}
inline wire::DeviceGrant* grant_of(wire::TenantRecord& r, const std::uint8_t* uuid) {
  return const_cast<wire::DeviceGrant*>(grant_of(static_cast<const wire::TenantRecord&>(r), uuid));
}

inline Answer refuse(Errc why, std::string tenant, std::string text) {
  Answer a;
  a.result = why;
  a.tenant = std::move(tenant);
  a.text = std::move(text);
  return a;
}

}  // namespace bulkhead::daemon
