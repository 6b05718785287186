// The facts of each form that takes memory: plain, pitch, managed, pools, VMM, arrays, graphs. For driver_facts.cc only.
#pragma once
#include "driver_facts.h"

namespace {

void plain() {
  CU(cuMemAlloc);
  CU(cuMemFree);
  for (size_t size :
       {1ul,       256ul,           512ul,     513ul,      4096ul,     65536ul,     262144ul,
        524288ul,  1048576ul - 512, 1048576ul, 1048577ul,  1572864ul,  2097151ul,   2097152ul,
        2097153ul, 3145728ul,       4194304ul, 10485760ul, 34603008ul, 104857600ul, 1073741825ul}) {
    const int n = size <= 4096 ? 4096 : size <= 65536 ? 256 : size <= 4194304 ? 64 : 4;
    const auto before = mine();
    const size_t free_before = cu_free();
    std::vector<CUdeviceptr> v((size_t)n);
    std::set<CUdeviceptr> blocks;
    unsigned long long first = 0;
    int per_first = 0;
    std::map<long long, int> strides;
    for (int i = 0; i < n; ++i) {
      CK(p_cuMemAlloc(&v[(size_t)i], size));
      blocks.insert(v[(size_t)i] >> 21);
      if (i == 0) first = mine() - before;
      if (per_first == 0 && mine() - before > first) per_first = i;
      if (i > 0) ++strides[(long long)(v[(size_t)i] - v[(size_t)i - 1])];
      if (i == 32 && size <= 4096) per_first = per_first ? per_first : -1;
    }
    long long best = 0;
    int bn = 0;
    for (auto& [k, c] : strides)
      if (c > bn) best = k, bn = c;
    const auto after = mine();
    const size_t free_after = cu_free();
    const double t0 = now_us();
    for (auto p : v) CK(p_cuMemFree(p));
    const double t1 = now_us();
    std::printf(
        "{\"plain\":%zu,\"n\":%d,\"first\":%llu,\"grow_at\":%d,\"nvml_delta\":%lld,\"free_delta\":%"
        "lld,\"blocks_2m\":%zu,\"stride\":%lld,\"after_free\":%lld,\"free_us\":%.1f}\n",
        size, n, first, per_first, (long long)(after - before),
        (long long)(free_before - free_after), blocks.size(), best, (long long)(mine() - before),
        (t1 - t0) / n);
    std::fflush(stdout);
  }
  // Freeing all but one of a slab, then one more small request.
  auto before = mine();
  CUdeviceptr keep[3];
  for (auto& k : keep) CK(p_cuMemAlloc(&k, 1000));
  fact("three small", before);
  CK(p_cuMemFree(keep[0]));
  CK(p_cuMemFree(keep[2]));
  fact("two small freed", before);
  CK(p_cuMemFree(keep[1]));
  fact("all small freed", before);
  // Mixed sizes sharing slabs.
  for (size_t s :
       {700ul * 1024, 700ul * 1024, 600ul * 1024, 1300ul * 1024, 100ul, 2097152ul + 512}) {
    before = mine();
    CUdeviceptr p = 0;
    CK(p_cuMemAlloc(&p, s));
    std::printf("{\"mixed\":%zu,\"ptr\":\"%llx\",\"nvml_delta\":%lld}\n", s, p,
                (long long)(mine() - before));
  }
}

void pitch_managed() {
  CU(cuMemAllocPitch);
  CU(cuMemAllocManaged);
  CU(cuMemFree);
  CU(cuMemsetD8);
  CU(cuCtxSynchronize);
  for (size_t w : {100ul, 513ul, 4000ul, 100000ul}) {
    auto before = mine();
    CUdeviceptr p = 0;
    size_t pitch = 0;
    CK(p_cuMemAllocPitch(&p, &pitch, w, 5000, 4));
    std::printf("{\"pitch_width\":%zu,\"pitch\":%zu,\"bytes\":%zu,\"nvml_delta\":%lld}\n", w, pitch,
                pitch * 5000, (long long)(mine() - before));
    CK(p_cuMemFree(p));
  }
  for (size_t s : {1000ul, 1048576ul, 104857600ul, 1073741824ul}) {
    auto before = mine();
    CUdeviceptr p = 0;
    CK(p_cuMemAllocManaged(&p, s, CU_MEM_ATTACH_GLOBAL));
    const auto at_alloc = mine() - before;
    CK(p_cuMemsetD8(p, 1, s));
    CK(p_cuCtxSynchronize());
    const auto touched = mine() - before;
    CK(p_cuMemFree(p));
    std::printf("{\"managed\":%zu,\"at_alloc\":%lld,\"touched\":%lld,\"after_free\":%lld}\n", s,
                (long long)at_alloc, (long long)touched, (long long)(mine() - before));
  }
}

void pools() {
  CU(cuDeviceGetDefaultMemPool);
  CU(cuMemPoolGetAttribute);
  CU(cuMemPoolSetAttribute);
  CU(cuMemAllocAsync);
  CU(cuMemFreeAsync);
  CU(cuStreamSynchronize);
  CU(cuMemPoolCreate);
  CU(cuMemPoolDestroy);
  CU(cuMemAllocFromPoolAsync);
  CU(cuMemPoolTrimTo);
  CU(cuStreamCreate);
  CU(cuCtxSynchronize);
  CU(cuEventCreate);
  CU(cuEventRecord);
  CU(cuEventSynchronize);
  CU(cuMemFree);
  CUmemoryPool def{}, own{};
  CK(p_cuDeviceGetDefaultMemPool(&def, 0));
  auto res = [&](CUmemoryPool p) {
    cuuint64_t r = 0;
    CK(p_cuMemPoolGetAttribute(p, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &r));
    return r;
  };
  auto before0 = mine();
  for (size_t s : {512ul, 1048576ul, 2097152ul, 33554432ul, 33554433ul, 70000000ul, 104857600ul,
                   1073741824ul}) {
    auto before = mine();
    CUdeviceptr p[4];
    unsigned long long r[4], nv[4];
    for (int i = 0; i < 4; ++i) {
      CK(p_cuMemAllocAsync(&p[i], s, nullptr));
      r[i] = res(def);
      nv[i] = mine() - before;
    }
    std::printf(
        "{\"pool_async\":%zu,\"reserved\":[%llu,%llu,%llu,%llu],\"nvml\":[%lld,%lld,%lld,%lld],"
        "\"ptr\":[\"%llx\",\"%llx\"]",
        s, r[0], r[1], r[2], r[3], (long long)nv[0], (long long)nv[1], (long long)nv[2],
        (long long)nv[3], p[0], p[1]);
    for (auto q : p) CK(p_cuMemFreeAsync(q, nullptr));
    const auto r_free = res(def);
    CK(p_cuStreamSynchronize(nullptr));
    std::printf(",\"after_free\":%llu,\"after_sync\":%llu,\"nvml_after\":%lld}\n",
                (unsigned long long)r_free, (unsigned long long)res(def),
                (long long)(mine() - before));
    std::fflush(stdout);
  }
  // What releases: event sync, ctx sync, query?
  CUevent ev{};
  CK(p_cuEventCreate(&ev, CU_EVENT_DISABLE_TIMING));
  CUdeviceptr p = 0;
  CK(p_cuMemAllocAsync(&p, 100 << 20, nullptr));
  CK(p_cuMemFreeAsync(p, nullptr));
  CK(p_cuEventRecord(ev, nullptr));
  CK(p_cuEventSynchronize(ev));
  std::printf("{\"release_after\":\"event sync\",\"reserved\":%llu}\n",
              (unsigned long long)res(def));
  CK(p_cuMemAllocAsync(&p, 1 << 20, nullptr));
  std::printf("{\"release_after\":\"next alloc\",\"reserved\":%llu}\n",
              (unsigned long long)res(def));
  CK(p_cuMemFreeAsync(p, nullptr));
  CK(p_cuCtxSynchronize());
  std::printf("{\"release_after\":\"ctx sync\",\"reserved\":%llu}\n", (unsigned long long)res(def));
  CK(p_cuMemAllocAsync(&p, 100 << 20, nullptr));
  CK(p_cuMemFree(p));
  std::printf("{\"release_after\":\"cuMemFree\",\"reserved\":%llu}\n",
              (unsigned long long)res(def));
  CK(p_cuCtxSynchronize());
  CUmemPoolProps props{};
  props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  props.location = {CU_MEM_LOCATION_TYPE_DEVICE, {0}};
  for (size_t max : {0ul, 256ul << 20}) {
    props.maxSize = max;
    CK(p_cuMemPoolCreate(&own, &props));
    std::printf("{\"own_pool_max\":%zu,\"reserved0\":%llu", max, (unsigned long long)res(own));
    CUdeviceptr q[3] = {};
    for (auto& x : q) {
      const CUresult r = p_cuMemAllocFromPoolAsync(&x, 100 << 20, own, nullptr);
      std::printf(",\"r\":%d,\"res\":%llu", (int)r, (unsigned long long)res(own));
      if (r != CUDA_SUCCESS) x = 0;
    }
    for (auto x : q)
      if (x) CK(p_cuMemFreeAsync(x, nullptr));
    CK(p_cuStreamSynchronize(nullptr));
    std::printf(",\"end\":%llu}\n", (unsigned long long)res(own));
    CK(p_cuMemPoolDestroy(own));
  }
  std::printf("{\"pool_all_delta\":%lld}\n", (long long)(mine() - before0));
  cuuint64_t keep = ~0ull;
  CK(p_cuMemPoolSetAttribute(def, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep));
  timing("cuMemPoolGetAttribute reserved", 2000, [&] { (void)res(def); });
  CK(p_cuMemAllocAsync(&p, 64 << 20, nullptr));
  CK(p_cuMemFreeAsync(p, nullptr));
  timing("cuMemAllocAsync+FreeAsync 1 MiB", 2000, [&] {
    CUdeviceptr x = 0;
    p_cuMemAllocAsync(&x, 1 << 20, nullptr);
    p_cuMemFreeAsync(x, nullptr);
  });
  keep = 0;
  CK(p_cuMemPoolSetAttribute(def, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep));
  CK(p_cuCtxSynchronize());
  // 100 mixed: fragmentation.
  unsigned long long used = 0;
  std::vector<CUdeviceptr> v;
  std::srand(7);
  for (int i = 0; i < 400; ++i) {
    const size_t s = (size_t)(std::rand() % (5 << 20)) + 1;
    CUdeviceptr x = 0;
    CK(p_cuMemAllocAsync(&x, s, nullptr));
    used += s;
    v.push_back(x);
    if (i % 3 == 2) {
      CK(p_cuMemFreeAsync(v[v.size() / 2], nullptr));
      v.erase(v.begin() + (long)v.size() / 2);
    }
  }
  cuuint64_t u = 0;
  CK(p_cuMemPoolGetAttribute(def, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &u));
  std::set<CUdeviceptr> b32, b2;
  for (auto x : v) b32.insert(x >> 25), b2.insert(x >> 21);
  std::printf("{\"mixed_pool_used\":%llu,\"reserved\":%llu,\"blocks32m\":%zu,\"blocks2m\":%zu}\n",
              (unsigned long long)u, (unsigned long long)res(def), b32.size(), b2.size());
  for (auto x : v) CK(p_cuMemFreeAsync(x, nullptr));
  CK(p_cuCtxSynchronize());
}

void vmm() {
  CU(cuMemCreate);
  CU(cuMemRelease);
  CU(cuMemGetAllocationGranularity);
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, {0}};
  size_t g = 0, gr = 0;
  CK(p_cuMemGetAllocationGranularity(&g, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
  CK(p_cuMemGetAllocationGranularity(&gr, &prop, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED));
  std::printf("{\"vmm_gran_min\":%zu,\"recommended\":%zu}\n", g, gr);
  for (size_t s : {g, 5 * g, 50 * g}) {
    auto before = mine();
    CUmemGenericAllocationHandle h{};
    CK(p_cuMemCreate(&h, s, &prop, 0));
    const auto a = mine() - before;
    CK(p_cuMemRelease(h));
    std::printf("{\"vmm\":%zu,\"nvml_delta\":%lld,\"after\":%lld}\n", s, (long long)a,
                (long long)(mine() - before));
  }
}

void arrays() {
  CU(cuArrayCreate);
  CU(cuArray3DCreate);
  CU(cuArrayDestroy);
  CU(cuMipmappedArrayCreate);
  CU(cuMipmappedArrayDestroy);
  CU(cuArrayGetMemoryRequirements);
  CU(cuMipmappedArrayGetMemoryRequirements);
  struct Case {
    size_t w, h, d;
    CUarray_format f;
    unsigned ch;
    unsigned levels;
  } cases[] = {{16, 0, 0, CU_AD_FORMAT_FLOAT, 1, 0},
               {1000, 0, 0, CU_AD_FORMAT_FLOAT, 4, 0},
               {100, 100, 0, CU_AD_FORMAT_UNSIGNED_INT8, 1, 0},
               {1000, 1000, 0, CU_AD_FORMAT_FLOAT, 1, 0},
               {16384, 16384, 0, CU_AD_FORMAT_FLOAT, 1, 0},
               {300, 200, 100, CU_AD_FORMAT_FLOAT, 4, 0},
               {1024, 1024, 64, CU_AD_FORMAT_HALF, 1, 0},
               {1024, 1024, 0, CU_AD_FORMAT_FLOAT, 4, 5},
               {4097, 4097, 0, CU_AD_FORMAT_FLOAT, 2, 12}};
  for (auto& c : cases) {
    CUDA_ARRAY3D_DESCRIPTOR d{};
    d.Width = c.w, d.Height = c.h, d.Depth = c.d, d.Format = c.f, d.NumChannels = c.ch;
    CUDA_ARRAY_MEMORY_REQUIREMENTS req{};
    auto before = mine();
    long long delta[6] = {};
    CUarray a[6] = {};
    CUmipmappedArray m[6] = {};
    CUresult rq = CUDA_SUCCESS;
    for (int i = 0; i < 6; ++i) {
      if (c.levels) {
        CK(p_cuMipmappedArrayCreate(&m[i], &d, c.levels));
        rq = p_cuMipmappedArrayGetMemoryRequirements(&req, m[i], 0);
      } else {
        CK(p_cuArray3DCreate(&a[i], &d));
        rq = p_cuArrayGetMemoryRequirements(&req, a[i], 0);
      }
      delta[i] = (long long)(mine() - before);
    }
    for (int i = 0; i < 6; ++i) {
      if (a[i]) CK(p_cuArrayDestroy(a[i]));
      if (m[i]) CK(p_cuMipmappedArrayDestroy(m[i]));
    }
    std::printf(
        "{\"array\":[%zu,%zu,%zu],\"fmt\":%d,\"ch\":%u,\"levels\":%u,\"req_r\":%d,\"req\":%zu,"
        "\"align\":%zu,\"nvml\":[%lld,%lld,%lld,%lld,%lld,%lld],\"after\":%lld}\n",
        c.w, c.h, c.d, (int)c.f, c.ch, c.levels, (int)rq, req.size, req.alignment, delta[0],
        delta[1], delta[2], delta[3], delta[4], delta[5], (long long)(mine() - before));
    std::fflush(stdout);
  }
}

void graphs() {
  CU(cuGraphCreate);
  CU(cuGraphAddMemAllocNode);
  CU(cuGraphAddMemFreeNode);
  CU(cuGraphInstantiateWithFlags);
  CU(cuGraphLaunch);
  CU(cuStreamSynchronize);
  CU(cuDeviceGetGraphMemAttribute);
  CU(cuDeviceGraphMemTrim);
  CU(cuGraphExecDestroy);
  CU(cuGraphDestroy);
  CU(cuGraphUpload);
  auto before = mine();
  auto att = [&](CUgraphMem_attribute a) {
    cuuint64_t v = 0;
    CK(p_cuDeviceGetGraphMemAttribute(0, a, &v));
    return (unsigned long long)v;
  };
  for (size_t s : {1048576ul, 104857600ul}) {
    CUgraph g{};
    CK(p_cuGraphCreate(&g, 0));
    CUDA_MEM_ALLOC_NODE_PARAMS mp{};
    mp.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    mp.poolProps.location = {CU_MEM_LOCATION_TYPE_DEVICE, {0}};
    mp.bytesize = s;
    CUgraphNode n{}, f{};
    CK(p_cuGraphAddMemAllocNode(&n, g, nullptr, 0, &mp));
    std::printf("{\"graph_alloc\":%zu,\"add\":%lld,\"reserved_add\":%llu", s,
                (long long)(mine() - before), att(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT));
    CK(p_cuGraphAddMemFreeNode(&f, g, &n, 1, mp.dptr));
    CUgraphExec e{};
    CK(p_cuGraphInstantiateWithFlags(&e, g, 0));
    std::printf(",\"inst\":%lld,\"reserved_inst\":%llu", (long long)(mine() - before),
                att(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT));
    CK(p_cuGraphUpload(e, nullptr));
    CK(p_cuStreamSynchronize(nullptr));
    std::printf(",\"upload\":%lld", (long long)(mine() - before));
    CK(p_cuGraphLaunch(e, nullptr));
    CK(p_cuStreamSynchronize(nullptr));
    std::printf(",\"launch\":%lld,\"reserved_launch\":%llu,\"used_launch\":%llu",
                (long long)(mine() - before), att(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT),
                att(CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT));
    CK(p_cuGraphExecDestroy(e));
    CK(p_cuGraphDestroy(g));
    std::printf(",\"destroyed\":%lld,\"reserved_d\":%llu", (long long)(mine() - before),
                att(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT));
    CK(p_cuDeviceGraphMemTrim(0));
    std::printf(",\"trim\":%lld,\"reserved_t\":%llu}\n", (long long)(mine() - before),
                att(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT));
    std::fflush(stdout);
  }
}

}  // namespace
