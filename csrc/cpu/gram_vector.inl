// Float32 tiles of kernel matrices. Included after panels.inl, once per instruction set; includes nothing.

typedef int32_t IntVec __attribute__((vector_size(4 * lanes), may_alias));

// A tile of x_i . x_j in `c`. In a tile on the diagonal, register blocks below it are left as they are.
void inner_products(const Rows& rows, const Tile& tile, float* scratch, float* c) {
  float* left = scratch;
  float* right = scratch + panel_depth * tile.side;
  for (int64_t k0 = 0; k0 < rows.dim; k0 += panel_depth) {
    const int64_t depth = rows.dim - k0 < panel_depth ? rows.dim - k0 : panel_depth, padded = (depth + 3) / 4 * 4;
    pack<block_rows>(rows, tile.first_row, tile.rows, k0, depth, left);
    pack<block_cols>(rows, tile.first_col, tile.cols, k0, depth, right);
    multiply_panels(left, right, padded, tile.rows, tile.cols, tile.diagonal, k0 > 0, c, tile.side);
  }
}

// |x_i|^2 by the very additions of inner_products, so that the distance of equal rows is exactly zero.
void squared_lengths(const Rows& rows, int64_t first, int64_t count, float* scratch, float* out) {
  for (int64_t block = 0; block < count; block += block_cols) {
    const int64_t present = count - block < block_cols ? count - block : block_cols;
    Vec totals[block_vectors] = {};
    for (int64_t k0 = 0; k0 < rows.dim; k0 += panel_depth) {
      const int64_t depth = rows.dim - k0 < panel_depth ? rows.dim - k0 : panel_depth;
      pack<block_cols>(rows, first + block, present, k0, depth, scratch);
      Vec sums[block_vectors] = {};
      const Vec* x = reinterpret_cast<const Vec*>(scratch);
      for (int64_t k = 0; k < depth; ++k, x += block_vectors) {
        for (int v = 0; v < block_vectors; ++v) sums[v] += x[v] * x[v];
      }
      for (int v = 0; v < block_vectors; ++v) totals[v] = k0 == 0 ? sums[v] : totals[v] + sums[v];
    }
    alignas(4 * lanes) float lengths[block_cols];
    __builtin_memcpy(lengths, totals, sizeof lengths);
    for (int64_t i = 0; i < present; ++i) out[block + i] = lengths[i];
  }
}

[[gnu::always_inline]] inline double sum_of(const Vec& x) {
  double total = 0;
  for (int lane = 0; lane < lanes; ++lane) total += x[lane];
  return total;
}

// |x_i|^2 in any order of additions: what inner products need, which are not compared with it.
template <typename T>
void quick_lengths_of(const Rows& rows, int64_t first, int64_t count, float* scratch, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    const T* x = static_cast<const T*>(rows.data) + (first + i) * rows.stride;
    float total = 0;
    for (int64_t k0 = 0; k0 < rows.dim; k0 += panel_depth) {
      const int64_t depth = rows.dim - k0 < panel_depth ? rows.dim - k0 : panel_depth, padded = (depth + lanes - 1) / lanes * lanes;
      read_row(x + k0, rows.shift + k0, rows.scale, scratch, depth);
      for (int64_t k = depth; k < padded; ++k) scratch[k] = 0;
      Vec sum = {};
      for (int64_t k = 0; k < padded; k += lanes) {
        const Vec entries = *reinterpret_cast<const Vec*>(scratch + k);
        sum += entries * entries;
      }
      total += sum_of(sum);
    }
    out[i] = total;
  }
}

void quick_lengths(const Rows& rows, int64_t first, int64_t count, float* scratch, float* out) {
  switch (rows.type) {
    case ScalarType::Half: return quick_lengths_of<Float16Bits>(rows, first, count, scratch, out);
    case ScalarType::BFloat16: return quick_lengths_of<Bfloat16Bits>(rows, first, count, scratch, out);
    default: return quick_lengths_of<float>(rows, first, count, scratch, out);
  }
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

// Newton's method from the bits of 1 / sqrt(x); compilers make a vector of square roots of scalar ones. Exactly 0 for 0.
[[gnu::always_inline]] inline Vec square_root(const Vec& x) {
  Vec inverse = (Vec)(0x5f3759df - ((IntVec)x >> 1));
  const Vec half = 0.5f * x;
  for (int step = 0; step < 2; ++step) inverse = inverse * (1.5f - (half * inverse) * inverse);
  const Vec root = x * inverse;
  return root + (0.5f * inverse) * (x - root * root);
}

// One row of kernel values from inner products: half_i + half_j - x_i . x_j is half the squared distance.
template <bool root>
[[gnu::always_inline]] inline void kernel_row(const Curve& curve, float half_length, const float* half_lengths, int64_t cols,
                                              float* c) {
  for (int64_t j = 0; j < cols; j += lanes) {
    Vec* value = reinterpret_cast<Vec*>(c + j);
    Vec distance = half_length + *reinterpret_cast<const Vec*>(half_lengths + j) - *value;
    distance = distance > 0.0f ? distance : Vec{};
    if constexpr (root) distance = square_root(distance);
    const Vec power = curve.offset - distance;
    *value = exp2_minus(power > -126.0f ? power : Vec{} - 126.0f, curve.unit);
  }
}

// Kernel values in place of inner products, zero outside the matrix and, in a tile on the diagonal, for j <= i; and their
// sums along rows and columns. `half_lengths` of the tile's columns are padded to `side`.
void finish(const Curve& curve, const Tile& tile, const float* half_rows, const float* half_cols, float* c, double* row_sums,
            double* col_sums) {
  alignas(4 * lanes) float column[max_side];
  for (int64_t j = 0; j < tile.side; ++j) col_sums[j] = 0;
  for (int64_t start = 0; start < tile.rows; start += run_rows) {
    const int64_t end = tile.rows - start < run_rows ? tile.rows : start + run_rows;
    for (int64_t j = 0; j < tile.side; ++j) column[j] = 0;
    for (int64_t i = start; i < end; ++i) {
      float* row = c + i * tile.side;
      if (curve.shape == Kernel::rbf) kernel_row<false>(curve, half_rows[i], half_cols, tile.cols, row);
      if (curve.shape == Kernel::laplacian) kernel_row<true>(curve, half_rows[i], half_cols, tile.cols, row);
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

// totals[l][m] += sum of a_l a_m for `left_layers` layers from l and `right_layers` from m, over `count` entries of a tile.
// A block that reaches beyond the last layer computes that one again, for nothing.
template <int left_layers, int right_layers>
[[gnu::always_inline]] inline void multiply_layers(const float* c, int64_t layer_stride, int64_t count, int l, int m, int num_layers, double* totals) {
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
void layer_products_of(const float* c, int64_t layer_stride, int64_t count, int num_layers, double* totals) {
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

constexpr TileKernels kernels = {squared_lengths, quick_lengths, inner_products, finish, layer_products};
