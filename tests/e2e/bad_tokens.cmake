# Hostile tokens, and what a good one does not cover.
if(BH_SAN OR BH_FUZZ OR NOT TARGET bh_sim)
  return()
endif()
find_package(Python3 REQUIRED COMPONENTS Interpreter)
add_test(NAME e2e_bad_tokens COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/bad_tokens.py ${CMAKE_BINARY_DIR})
set_tests_properties(e2e_bad_tokens PROPERTIES LABELS e2e TIMEOUT 300)
