# The command line over the simulated driver and the preloaded library, as a user meets them.
if(NOT BH_SAN AND NOT BH_FUZZ)
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  add_library(fake_channels SHARED fake_channels.c)
  target_link_libraries(fake_channels PRIVATE ${CMAKE_DL_LIBS})
  set_target_properties(fake_channels PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  foreach(name IN ITEMS cli_run cli_top cli_tools cli_root cli_watch compute_control compute_lend spatial partition daemon_control daemon_reload daemon_live daemon_many daemon_sample
      daemon_containers daemon_hostile daemon_attacked daemon_sight grants shim robust)
    add_test(NAME e2e_${name} COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/${name}.py ${CMAKE_BINARY_DIR})
    set_tests_properties(e2e_${name} PROPERTIES LABELS e2e TIMEOUT 300)
  endforeach()
endif()
