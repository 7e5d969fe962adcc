// A shared library whose functions take arguments in every kind of place.
#include <cstdarg>

extern "C" double lazy_probe_sum(int a, long b, int c, long d, int e, long f, double g, float h, double i,
                                 double j, double k, double l, double m, double n, long on_stack,
                                 double on_stack_too) {
  return a + 2.0 * static_cast<double>(b) + 4 * c + 8.0 * static_cast<double>(d) + 16 * e +
         32.0 * static_cast<double>(f) + 64 * g + 128 * static_cast<double>(h) + 256 * i + 512 * j +
         1024 * k + 2048 * l + 4096 * m + 8192 * n + 16384 * static_cast<double>(on_stack) +
         32768 * on_stack_too;
}

extern "C" double lazy_probe_any(int count, ...) {
  va_list list;
  va_start(list, count);
  double sum = 0;
  for (int i = 0; i < count; ++i) sum += va_arg(list, double);
  va_end(list);
  return sum;
}
