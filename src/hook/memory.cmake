# Tests of the memory families: the books alone, and all of them on a small model of the driver.
bh_test(alloc_map_test SOURCES alloc_map_test.cc alloc_map.cc slab.cc DEPS bh_abi bh_base)
set(memory_sources alloc_map.cc array.cc array_book.cc books.cc context.cc contexts.cc graph.cc memory_async.cc
  memory_managed.cc memory_plain.cc pool.cc pool_api.cc share.cc slab.cc vmm.cc)
bh_test(memory_test SOURCES memory_test.cc memory_storm_test.cc pool_block_test.cc memory_fake_test.cc memory_fake_more_test.cc memory_fake_share_test.cc ${memory_sources} DEPS bh_abi bh_base)
if(TARGET memory_test)
  target_compile_definitions(memory_test PRIVATE BH_HOOK_FAKE)
endif()
