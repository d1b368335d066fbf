// A tile of kernel values, and the curve from inner products to what is summed.
#pragma once

#include <cstdint>

#include "gram.h"

namespace xbridge {

constexpr int64_t run_rows = 96;      // longest float32 sum along a column
constexpr int64_t run_vectors = 128;  // longest float32 sum of products of layers, per lane

struct Tile {
  int64_t side, first_row, rows, first_col, cols;  // `side` floats from row to row
  bool diagonal;
};

// With half the squared distance q = half_i + half_j - x_i . x_j:
//     rbf        v = 2^(offset - slope q) - unit
//     laplacian  v = 2^(offset - slope sqrt(q)) - unit
//     linear     v = half_i + half_j + x_i . x_j
struct Curve {
  Kernel shape;
  float offset, slope, unit;
};

}  // namespace xbridge
