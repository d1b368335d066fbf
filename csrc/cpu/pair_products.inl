// One pair of rows, for one instruction set; included by pair_products.cpp, which opens the namespace and the target.

// The sum over t of x_t y_t, or of (x_t - y_t)^2, in float64: terms are folded in half until one is left. The order
// depends on d alone, so equal rows have equal sums, and plain PyTorch computes the same bits.
template <typename T, bool distance>
double fold(const T* __restrict__ x, const T* __restrict__ y, int64_t d, double* __restrict__ terms) {
  const auto term = [&](int64_t t) {
    const double a = static_cast<double>(x[t]), b = static_cast<double>(y[t]);
    return distance ? (a - b) * (a - b) : a * b;
  };
  int64_t width = (d + 1) / 2;
  for (int64_t t = 0; t < d - width; ++t) terms[t] = term(t) + term(t + width);
  if (d - width < width) terms[width - 1] = term(width - 1);
  while (width > 1) {
    const int64_t half = (width + 1) / 2;
    for (int64_t t = 0; t < width - half; ++t) terms[t] += terms[t + half];
    width = half;
  }
  return terms[0];
}
