# The SIEM exporter against a real rsyslog, and against receivers that misbehave; everybody is killed.
if(BH_SAN OR BH_FUZZ)
  return()
endif()
find_package(Python3 REQUIRED COMPONENTS Interpreter)
add_executable(siem_exporter siem_exporter.cc)
target_link_libraries(siem_exporter PRIVATE bh_siem bh_audit)
set_target_properties(siem_exporter PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
foreach(part receiver killed hostile daemon)
  add_test(NAME e2e_siem_${part}
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/siem_${part}.py ${CMAKE_BINARY_DIR})
  set_tests_properties(e2e_siem_${part} PROPERTIES LABELS e2e TIMEOUT 600)
endforeach()
