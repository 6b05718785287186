# Memory shared between the processes of one tenant and of two, through the real preload.
if(BH_SAN OR BH_FUZZ OR NOT TARGET bh_sim)
  return()
endif()
add_executable(share_client share_client.cc)
target_include_directories(share_client PRIVATE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR})
target_link_libraries(share_client PRIVATE ${CMAKE_DL_LIBS})
set_target_properties(share_client PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
bh_test(share_e2e_test SOURCES share_test.cc DEPS bh_shm LABEL e2e)
add_dependencies(share_e2e_test bh_hook bh_sim share_client)
target_compile_definitions(share_e2e_test PRIVATE BH_LIBRARY="${CMAKE_BINARY_DIR}/lib/libbulkhead.so"
  BH_TESTS="${CMAKE_BINARY_DIR}/tests")
