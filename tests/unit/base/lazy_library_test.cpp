#include "base/lazy_library.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <thread>

extern "C" {
extern ostler::LazyLibrary ostler_lazy_probe;
extern ostler::LazyLibrary ostler_lazy_absent;
double lazy_probe_sum(int a, long b, int c, long d, int e, long f, double g, float h, double i, double j,
                      double k, double l, double m, double n, long on_stack, double on_stack_too);
double lazy_probe_any(int count, ...);
int absent_function();
}

namespace ostler {
namespace {

using testing::AllOf;
using testing::HasSubstr;

double sum_of_ones() {
  return lazy_probe_sum(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1);
}

// The first call is the one that loads the library: it must find its arguments where they were.
TEST(LazyLibraryTest, first_and_later_calls_get_their_arguments) {
  for (int round = 0; round < 2; ++round) EXPECT_EQ(sum_of_ones(), 65535);
  for (int round = 0; round < 2; ++round) EXPECT_EQ(lazy_probe_any(3, 1.5, 2.5, 4.0), 8);
}

TEST(LazyLibraryTest, threads_may_call_first_at_once) {
  std::array<double, 8> sums = {};
  std::vector<std::thread> threads;
  for (double& sum : sums) threads.emplace_back([&sum] { sum = sum_of_ones(); });
  for (std::thread& thread : threads) thread.join();
  for (const double sum : sums) EXPECT_EQ(sum, 65535);
}

TEST(LazyLibraryTest, missing_library_is_named_with_its_package) {
  const auto loaded = ostler_lazy_absent.load();
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().kind(), ErrorKind::kNotFound);
  EXPECT_THAT(loaded.error().message(),
              AllOf(HasSubstr("libostler-absent.so.1"), HasSubstr("install the package 'absent-package'")));
}

TEST(LazyLibraryTest, missing_function_is_named) {
  const char* const names[] = {"lazy_probe_sum", "lazy_probe_nothing"};
  void* functions[2] = {};
  LazyLibrary library = {ostler_lazy_probe.soname, "probe", names, functions, 2};
  const auto loaded = library.load();
  ASSERT_FALSE(loaded);
  EXPECT_THAT(loaded.error().message(), HasSubstr("lazy_probe_nothing"));
  EXPECT_EQ(functions[0], nullptr);
}

TEST(LazyLibraryDeathTest, call_without_the_library_ends_with_the_sentence) {
  EXPECT_EXIT(absent_function(), testing::ExitedWithCode(1), "libostler-absent.so.1.*install the package");
}

TEST(LazyLibraryTest, libraries_of_the_product_are_whole) {
  for (LazyLibrary* const library :
       {&ostler_lazy_curl, &ostler_lazy_gcrypt, &ostler_lazy_gnutls, &ostler_lazy_nbd, &ostler_lazy_slirp}) {
    const auto loaded = library->load();
    EXPECT_TRUE(loaded) << loaded.error().message();
  }
}

}  // namespace
}  // namespace ostler
