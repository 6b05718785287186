// User objects: things of the caller's that graphs keep alive. The destructor runs when the last reference
// goes; without the lock, for it may do anything.
#include <new>

#include "sim/api.h"
#include "sim/graph.h"

namespace bulkhead::sim {
namespace {

struct UserObject {
  void* data = nullptr;
  CUhostFn destroy = nullptr;
  unsigned references = 0;
};
std::unordered_set<UserObject*>& objects() noexcept {
  static auto* set = new std::unordered_set<UserObject*>;
  return *set;
}

// Takes references away; at the last, forgets the object and tells what to run.
CUresult drop(CUuserObject h, unsigned count, UserObject& last) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  auto* o = reinterpret_cast<UserObject*>(h);
  if (!objects().contains(o) || count == 0 || count > o->references)
    return CUDA_ERROR_INVALID_VALUE;
  o->references -= count;
  if (o->references != 0) return CUDA_SUCCESS;
  last = *o;
  objects().erase(o);
  delete o;
  return CUDA_SUCCESS;
}

}  // namespace

namespace api {

CUresult cuUserObjectCreate(CUuserObject* out, void* ptr, CUhostFn destroy, unsigned int references,
                            unsigned int flags) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (out == nullptr || destroy == nullptr || references == 0 ||
      flags != CU_USER_OBJECT_NO_DESTRUCTOR_SYNC) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  auto* o = new (std::nothrow) UserObject{ptr, destroy, references};
  if (o == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  objects().insert(o);
  *out = reinterpret_cast<CUuserObject>(o);
  return CUDA_SUCCESS;
}

CUresult cuUserObjectRetain(CUuserObject object, unsigned int count) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  auto* o = reinterpret_cast<UserObject*>(object);
  if (!objects().contains(o) || count == 0) return CUDA_ERROR_INVALID_VALUE;
  o->references += count;
  return CUDA_SUCCESS;
}

CUresult cuUserObjectRelease(CUuserObject object, unsigned int count) noexcept {
  UserObject last;
  const CUresult r = drop(object, count, last);
  if (last.destroy != nullptr) last.destroy(last.data);
  return r;
}

}  // namespace api
}  // namespace bulkhead::sim
