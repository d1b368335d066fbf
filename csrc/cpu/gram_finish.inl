// From a tile of inner products to kernel values and their sums. Included once per instruction set, inside a namespace
// that defines `lanes`, `Vec` and `IntVec`; includes nothing.

// Newton's method from the bits of 1 / sqrt(x); compilers make a vector of square roots of scalar ones. Exactly 0 for
// 0.
[[gnu::always_inline]] inline Vec square_root(const Vec& x) {
  Vec inverse = (Vec)(0x5f3759df - ((IntVec)x >> 1));
  const Vec half = 0.5f * x;
  for (int step = 0; step < 2; ++step) inverse = inverse * (1.5f - (half * inverse) * inverse);
  const Vec root = x * inverse;
  return root + (0.5f * inverse) * (x - root * root);
}

// 2^x - unit for x in [-126, 126]; unit 1 loses nothing where 2^x is near 1. Relative error of 2^x: 1e-8 and rounding.
[[gnu::always_inline]] inline Vec exp2_minus(const Vec& x, float unit) {
  const float to_integer = 12582912.0f;  // 1.5 2^23: the sum's last bits are the nearest integer
  const Vec shifted = x + to_integer;
  const Vec r = x - (shifted - to_integer);
  Vec p = r * 1.5453163e-4f + 1.3390863e-3f;
  p = p * r + 9.618083e-3f;
  p = p * r + 5.550357e-2f;
  p = p * r + 2.402265e-1f;
  p = p * r + 6.931472e-1f;
  const Vec power = (Vec)(((IntVec)shifted << 23) + (127 << 23));
  return power * (p * r) + (power - unit);
}

template <Kernel shape>
[[gnu::always_inline]] inline void kernel_row(const Curve& curve, float half, const float* halves, int64_t cols,
                                              float* c) {
  for (int64_t j = 0; j < cols; j += lanes) {
    Vec* value = reinterpret_cast<Vec*>(c + j);
    const Vec both = half + *reinterpret_cast<const Vec*>(halves + j);
    if constexpr (shape == Kernel::linear) {
      *value = both + *value;
    } else {
      Vec distance = both - *value;
      distance = distance > 0.0f ? distance : Vec{};
      if constexpr (shape == Kernel::laplacian) distance = square_root(distance);
      const Vec power = curve.offset - curve.slope * distance;
      *value = exp2_minus(power > -126.0f ? power : Vec{} - 126.0f, curve.unit);
    }
  }
}

// Kernel values in place of inner products, zero outside the matrix and, in a tile on the diagonal, for j <= i; and
// their sums along rows and columns. `half_cols` is padded to `side`.
[[gnu::noinline]] void finish(const Curve& curve, const Tile& tile, const float* half_rows, const float* half_cols,
                              float* c, double* row_sums, double* col_sums) {
  alignas(4 * lanes) float column[max_side];
  for (int64_t j = 0; j < tile.side; ++j) col_sums[j] = 0;
  for (int64_t start = 0; start < tile.rows; start += run_rows) {
    const int64_t end = tile.rows - start < run_rows ? tile.rows : start + run_rows;
    for (int64_t j = 0; j < tile.side; ++j) column[j] = 0;
    for (int64_t i = start; i < end; ++i) {
      float* row = c + i * tile.side;
      if (curve.shape == Kernel::linear) kernel_row<Kernel::linear>(curve, half_rows[i], half_cols, tile.cols, row);
      if (curve.shape == Kernel::rbf) kernel_row<Kernel::rbf>(curve, half_rows[i], half_cols, tile.cols, row);
      if (curve.shape == Kernel::laplacian)
        kernel_row<Kernel::laplacian>(curve, half_rows[i], half_cols, tile.cols, row);
      for (int64_t j = tile.diagonal ? i : -1; j >= 0; --j) row[j] = 0;
      for (int64_t j = tile.cols; j < tile.side; ++j) row[j] = 0;
      Vec sum = {};
      for (int64_t j = 0; j < tile.side; j += lanes) {
        const Vec value = *reinterpret_cast<const Vec*>(row + j);
        *reinterpret_cast<Vec*>(column + j) += value;
        sum += value;
      }
      row_sums[i] = sum_of(sum);
    }
    for (int64_t j = 0; j < tile.side; ++j) col_sums[j] += column[j];
  }
}

// totals[l][m] += sum of a_l a_m for `left_layers` layers from l and `right_layers` from m, over `count` entries of a
// tile. A block that reaches beyond the last layer computes that one again, for nothing.
template <int left_layers, int right_layers>
[[gnu::always_inline]] inline void multiply_layers(const float* c, int64_t layer_stride, int64_t count, int l, int m,
                                                   int num_layers, double* totals) {
  const float* left[left_layers];
  const float* right[right_layers];
  for (int a = 0; a < left_layers; ++a) left[a] = c + (l + a < num_layers ? l + a : num_layers - 1) * layer_stride;
  for (int b = 0; b < right_layers; ++b) right[b] = c + (m + b < num_layers ? m + b : num_layers - 1) * layer_stride;
  Vec sums[left_layers][right_layers] = {};
  for (int64_t e = 0; e < count; e += lanes) {
    Vec y[right_layers];
    for (int b = 0; b < right_layers; ++b) y[b] = *reinterpret_cast<const Vec*>(right[b] + e);
    for (int a = 0; a < left_layers; ++a) {
      const Vec x = *reinterpret_cast<const Vec*>(left[a] + e);
      for (int b = 0; b < right_layers; ++b) sums[a][b] += x * y[b];
    }
  }
  for (int a = 0; a < left_layers; ++a) {
    for (int b = 0; b < right_layers; ++b) {
      if (l + a <= m + b && m + b < num_layers) totals[(l + a) * num_layers + m + b] += sum_of(sums[a][b]);
    }
  }
}

// totals[l][m] += sum_e c_l[e] c_m[e] for l <= m: float32 over at most `run_vectors` terms a lane, then float64.
template <int left_layers, int right_layers>
[[gnu::noinline]] void layer_products_of(const float* c, int64_t layer_stride, int64_t count, int num_layers,
                                         double* totals) {
  constexpr int64_t run = run_vectors * lanes;
  for (int64_t start = 0; start < count; start += run) {
    const int64_t length = count - start < run ? count - start : run;
    for (int m = 0; m < num_layers; m += right_layers) {
      for (int l = 0; l < m + right_layers && l < num_layers; l += left_layers) {
        multiply_layers<left_layers, right_layers>(c + start, layer_stride, length, l, m, num_layers, totals);
      }
    }
  }
}

void layer_products(const float* c, int64_t layer_stride, int64_t count, int num_layers, double* totals) {
  if (num_layers <= 2) {
    layer_products_of<2, 2>(c, layer_stride, count, num_layers, totals);
  } else {
    layer_products_of<4, 3>(c, layer_stride, count, num_layers, totals);
  }
}
