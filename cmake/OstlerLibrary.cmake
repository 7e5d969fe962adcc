# One static library per folder, linked privately by default, so that the build files show the
# dependency graph of docs/architecture.md. Tests get one executable per mirrored folder.

find_program(OSTLER_CCACHE ccache)
if(OSTLER_CCACHE)
  # Paths below the tree count as relative ones, so that worktrees and clones share what one of them has compiled.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${OSTLER_CCACHE})
endif()
find_program(OSTLER_MOLD mold)
if(OSTLER_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

add_library(ostler_options INTERFACE)
target_compile_options(ostler_options INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wconversion -Wno-sign-conversion -Werror)
# GCC 12 reports these for correct uses of std::vector and std::string (GCC bugs 105329, 107852).
target_compile_options(ostler_options INTERFACE
  $<$<CXX_COMPILER_ID:GNU>:-Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread -Wno-restrict>)
target_include_directories(ostler_options INTERFACE ${CMAKE_SOURCE_DIR}/src)

# ostler_library(name SOURCES a.cpp … [PUBLIC lib …] [PRIVATE lib …])
# PUBLIC: libraries whose headers ours include; PRIVATE: only our sources use them.
function(ostler_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;PUBLIC;PRIVATE" ${ARGN})
  add_library(ostler_${name} STATIC ${ARG_SOURCES})
  target_link_libraries(ostler_${name} PUBLIC ${ARG_PUBLIC} PRIVATE ostler_options ${ARG_PRIVATE})
  target_include_directories(ostler_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
endfunction()

# Values of OSTLER_TEST_ENGINE (tests/support/engine.h), for tests that do not count instructions.
set(OSTLER_TRANSLATORS bt "bt,count=off" "bt,superblocks=off" "bt,window=off" "bt,keep_flags=off" "bt,direct=off" "bt,flags_wait=off" "bt,shared_checks=off" "bt,unroll=off" "bt,system=off" "bt,share=all")

# ostler_test(name SOURCES a.cpp … LIBS lib … [LABELS l …] [ENGINES e …]): a GoogleTest executable, discovered by ctest.
# ENGINES: its tests run on the interpreter, and once more on each of those, as Test@engine.
function(ostler_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS;LABELS;ENGINES" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ostler_options ${ARG_LIBS} GTest::gtest GTest::gtest_main GTest::gmock Threads::Threads)
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 300 LABELS "${ARG_LABELS}")
  foreach(engine ${ARG_ENGINES})
    gtest_discover_tests(${name} TEST_SUFFIX "@${engine}" TEST_LIST ${name}_${engine} DISCOVERY_TIMEOUT 60
      PROPERTIES TIMEOUT 300 LABELS "${ARG_LABELS};engine" ENVIRONMENT "OSTLER_TEST_ENGINE=${engine}")
  endforeach()
endfunction()

# ostler_fuzz(name SOURCES a.cpp … LIBS lib …): the libFuzzer program name_fuzz; needs the fuzz preset (clang).
function(ostler_fuzz name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  add_executable(${name}_fuzz ${ARG_SOURCES})
  target_link_libraries(${name}_fuzz PRIVATE ostler_options ${ARG_LIBS} Threads::Threads)
  target_link_options(${name}_fuzz PRIVATE -fsanitize=fuzzer)
endfunction()
