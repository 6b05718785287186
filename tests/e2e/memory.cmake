# Every allocating form through the real preload, on the simulated driver.
if(BH_SAN OR BH_FUZZ OR NOT TARGET bh_sim)
  return()
endif()
add_executable(memory_client memory_client.cc)
target_include_directories(memory_client PRIVATE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR})
target_link_libraries(memory_client PRIVATE ${CMAKE_DL_LIBS} pthread)
set_target_properties(memory_client PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
bh_test(memory_e2e_test SOURCES memory_test.cc DEPS bh_shm LABEL e2e)
add_dependencies(memory_e2e_test bh_hook bh_sim memory_client)
target_link_libraries(memory_e2e_test PRIVATE ${CMAKE_DL_LIBS})
target_compile_definitions(memory_e2e_test PRIVATE BH_LIBRARY="${CMAKE_BINARY_DIR}/lib/libbulkhead.so"
  BH_TESTS="${CMAKE_BINARY_DIR}/tests")
