# lazy_library(name LIBRARY file | SONAME name PACKAGE package FUNCTIONS function …)
# The target ostler_lazy_<name> stands for a shared library that is loaded when it is first needed: most runs need neither
# curl nor TLS, and each of them brings a dozen further libraries that cost start-up time and memory. It defines the
# functions named, as jumps through a table; src/base/lazy_library.h fills the table. A function that is not named here is
# an undefined reference when Ostler is linked. Headers come from the library's own target.
function(lazy_library name)
  cmake_parse_arguments(ARG "" "LIBRARY;SONAME;PACKAGE" "FUNCTIONS" ${ARGN})
  set(SONAME ${ARG_SONAME})
  if(NOT SONAME)
    list(GET ARG_LIBRARY 0 file)
    execute_process(COMMAND objdump -p ${file} OUTPUT_VARIABLE headers COMMAND_ERROR_IS_FATAL ANY)
    if(NOT headers MATCHES "SONAME +([^ \n]+)")
      message(FATAL_ERROR "${file} has no SONAME, so it cannot be loaded at run time")
    endif()
    set(SONAME ${CMAKE_MATCH_1})
  endif()
  list(LENGTH ARG_FUNCTIONS COUNT)
  set(index 0)
  foreach(function ${ARG_FUNCTIONS})
    string(APPEND JUMPS "        .globl  ${function}\n        .hidden ${function}\n        .type   ${function}, @function\n"
      "${function}:\n        jmpq    *table+8*${index}(%rip)\n        .size   ${function}, . - ${function}\n"
      "first_${index}:\n        pushq   $${index}\n        jmp     first_call\n")
    string(APPEND TABLE "        .quad   first_${index}\n")
    string(APPEND NAMES "        .quad   name_${index}\n")
    string(APPEND STRINGS "name_${index}: .asciz \"${function}\"\n")
    math(EXPR index "${index} + 1")
  endforeach()
  set(NAME ${name})
  set(PACKAGE ${ARG_PACKAGE})
  configure_file(${CMAKE_SOURCE_DIR}/cmake/lazy_library.S.in ${CMAKE_CURRENT_BINARY_DIR}/lazy_${name}.S @ONLY)
  add_library(ostler_lazy_${name} STATIC ${CMAKE_CURRENT_BINARY_DIR}/lazy_${name}.S)
  target_link_libraries(ostler_lazy_${name} PUBLIC ostler_base)
endfunction()
