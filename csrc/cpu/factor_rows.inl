// One row, for one instruction set; included by factor_rows.cpp, which opens the namespace and the target.

// factors = x weight - shift in float64, rounded once; returns their squared length and their product with `other`.
template <typename T>
void factor_row(const T* __restrict__ x, double weight, const double* __restrict__ shift, const double* __restrict__ other,
                int64_t d, float* __restrict__ factors, double* square, double* product) {
  constexpr int lanes = 8;  // independent sums, added in a fixed order at the end
  double squares[lanes] = {}, products[lanes] = {};
  const auto one = [&](int64_t t, int lane) {
    const double value = static_cast<double>(x[t]) * weight - shift[t];
    factors[t] = static_cast<float>(value);
    squares[lane] += value * value;
    products[lane] += value * other[t];
  };
  int64_t t = 0;
  for (; t + lanes <= d; t += lanes) {
    for (int lane = 0; lane < lanes; ++lane) one(t + lane, lane);
  }
  for (; t < d; ++t) one(t, 0);
  *square = 0;
  *product = 0;
  for (int lane = 0; lane < lanes; ++lane) {
    *square += squares[lane];
    *product += products[lane];
  }
}
