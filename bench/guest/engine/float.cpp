// Floating point without vector intrinsics: a matrix product and a fast Fourier transform (float NAME).
#include <cmath>
#include <complex>
#include <cstdio>
#include <cstring>
#include <vector>

namespace {

void matrix() {
  constexpr int kSize = 420, kRounds = 10;
  std::vector<double> a(kSize * kSize), b(kSize * kSize), c(kSize * kSize);
  for (int i = 0; i < kSize * kSize; ++i) {
    a[i] = (i * 7919 % 1009) / 1009.0;
    b[i] = (i * 10473 % 1013) / 1013.0;
  }
  for (int round = 0; round < kRounds; ++round) {
    for (int i = 0; i < kSize; ++i) {
      for (int k = 0; k < kSize; ++k) {
        const double factor = a[i * kSize + k];
        for (int j = 0; j < kSize; ++j) c[i * kSize + j] += factor * b[k * kSize + j];
      }
    }
    a[round] += c[round * 11] * 1e-6;
  }
  double sum = 0;
  for (const double value : c) sum += value;
  printf("%.12g\n", sum);
}

void transform(std::vector<std::complex<double>>& data, const std::vector<std::complex<double>>& roots) {
  const std::size_t size = data.size();
  for (std::size_t i = 1, j = 0; i < size; ++i) {
    std::size_t bit = size >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) std::swap(data[i], data[j]);
  }
  for (std::size_t length = 2; length <= size; length <<= 1) {
    const std::size_t half = length / 2, step = size / length;
    for (std::size_t i = 0; i < size; i += length) {
      for (std::size_t k = 0; k < half; ++k) {
        const auto root = roots[k * step], odd = data[i + k + half];
        const std::complex<double> turned(root.real() * odd.real() - root.imag() * odd.imag(),
                                          root.real() * odd.imag() + root.imag() * odd.real());
        data[i + k + half] = data[i + k] - turned;
        data[i + k] += turned;
      }
    }
  }
}

void fft() {
  constexpr std::size_t kSize = 1 << 16;
  std::vector<std::complex<double>> data(kSize), roots(kSize / 2);
  for (std::size_t i = 0; i < kSize / 2; ++i)
    roots[i] = std::polar(1.0, -2 * M_PI * static_cast<double>(i) / kSize);
  for (std::size_t i = 0; i < kSize; ++i) data[i] = {static_cast<double>(i * 7919 % 1009) / 1009, 0};
  for (int round = 0; round < 80; ++round) {
    transform(data, roots);
    for (auto& value : data) value *= 1.0 / 256;
  }
  double energy = 0;
  for (const auto& value : data) energy += std::norm(value);
  printf("%.8g\n", energy);  // few digits: the C library's sine differs by processor
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && strcmp(argv[1], "matrix") == 0) {
    matrix();
  } else {
    fft();
  }
}
