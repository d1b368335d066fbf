// total += x^T y for bfloat16 rows, summed in float32 (torch's own bfloat16 product rounds its result to bfloat16).
//
// Rows are taken 8192 at a time: both matrices are packed once, then tiles of the result are summed over chunks of rows
// that stay in cache. Every entry of the result belongs to one task, so that sums do not depend on the threads.

#include <algorithm>

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include "amx.h"
#include "features.h"
#include "targets.h"

namespace xbridge {
namespace {

constexpr int64_t slab_rows = 8192;  // longest float32 sum
constexpr int64_t chunk_rows = 512;  // of a strip, in the innermost cache
constexpr int64_t side = 256;        // rows and columns of a tile of the result
constexpr int64_t side_strips = side / strip_rows;

struct XtyKernels {
  void (*configure)();
  void (*release)();
  void (*pack_columns)(const uint16_t* x, int64_t stride, int64_t rows, int64_t cols, bool left, uint32_t* out);
  void (*multiply_add_strips)(const uint32_t* left, const uint32_t* right, const Step*, int64_t num_steps, float* c,
                              int64_t stride);
};

#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace emulated {
#include "amx_vectors.inl"
#include "amx_emulated.inl"
#include "amx_kernels.inl"
#include "xty_amx.inl"
}  // namespace emulated

#if defined(__x86_64__)
XBRIDGE_BEGIN_TARGET("avx512f,avx512bw,avx512vl,avx512dq")
namespace amx {
#include "amx_vectors.inl"
#include "amx_hardware.inl"
#include "amx_kernels.inl"
#include "xty_amx.inl"
}  // namespace amx
XBRIDGE_END_TARGET
#endif

struct Columns {
  const uint16_t* data;
  int64_t stride, num_columns;
  int64_t strips() const { return ceil_div(num_columns, strip_rows); }
};

Columns columns_of(const Tensor& x) { return {static_cast<const uint16_t*>(x.data_ptr()), x.stride(0), x.size(1)}; }

// Packed rows [first, first + rows): chunk by chunk, in each of them strip by strip.
struct Packed {
  Aligned<uint32_t> words;
  int64_t strips, rows;

  static int64_t chunk_blocks(int64_t rows) { return ceil_div(rows, block_entries); }

  uint32_t* at(int64_t chunk, int64_t strip) const {
    const int64_t whole = chunk * strips * chunk_blocks(chunk_rows) * block_words;
    return words.get() + whole + strip * chunk_blocks(rows_of(chunk)) * block_words;
  }

  int64_t rows_of(int64_t chunk) const { return std::min(chunk_rows, rows - chunk * chunk_rows); }
  int64_t num_chunks() const { return ceil_div(rows, chunk_rows); }
};

Packed packed(const Columns& x, int64_t first, int64_t rows, bool left, const XtyKernels& kernels) {
  Packed to{aligned<uint32_t>(x.strips() * Packed::chunk_blocks(rows) * block_words), x.strips(), rows};
  torch::stable::parallel_for(0, to.num_chunks() * to.strips, 4, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t chunk = task / to.strips, strip = task % to.strips, col = strip * strip_rows;
      const uint16_t* from = x.data + (first + chunk * chunk_rows) * x.stride + col;
      const int64_t cols = std::min(strip_rows, x.num_columns - col);
      kernels.pack_columns(from, x.stride, to.rows_of(chunk), cols, left, to.at(chunk, strip));
    }
  });
  return to;
}

// One tile of the result, in strips from `row` and `col`: c (side, side).
void multiply_tile(const Packed& x, const Packed& y, int64_t row, int64_t col, const Step* steps, float* c,
                   const XtyKernels& kernels) {
  const int64_t last_row = std::min(row + side_strips, x.strips), last_col = std::min(col + side_strips, y.strips);
  std::fill(c, c + side * side, 0.0f);
  kernels.configure();
  for (int64_t chunk = 0; chunk < x.num_chunks(); ++chunk) {
    const int64_t blocks = Packed::chunk_blocks(x.rows_of(chunk));
    for (int64_t j = col; j < last_col; ++j) {
      for (int64_t i = row; i < last_row; ++i) {
        kernels.multiply_add_strips(x.at(chunk, i), y.at(chunk, j), steps, blocks,
                                    c + (i - row) * strip_rows * side + (j - col) * strip_rows, side);
      }
    }
  }
  kernels.release();
}

void add_product(const Tensor& x, const Tensor& y, Tensor& total, const XtyKernels& kernels) {
  const Columns left = columns_of(x), right = columns_of(y);
  float* to = static_cast<float*>(total.data_ptr());
  const int64_t stride = total.stride(0), tiles_across = ceil_div(right.strips(), side_strips);
  const int64_t tiles = ceil_div(left.strips(), side_strips) * tiles_across;
  Step steps[chunk_rows / block_entries];
  for (int32_t block = 0; block < chunk_rows / block_entries; ++block) steps[block] = {block, block};
  for (int64_t first = 0; first < x.size(0); first += slab_rows) {
    const int64_t rows = std::min(slab_rows, x.size(0) - first);
    const Packed a = packed(left, first, rows, true, kernels), b = packed(right, first, rows, false, kernels);
    torch::stable::parallel_for(0, tiles, 1, [&](int64_t begin, int64_t end) {
      const Aligned<float> c = aligned<float>(side * side);
      for (int64_t tile = begin; tile < end; ++tile) {
        const int64_t row = tile / tiles_across * side_strips, col = tile % tiles_across * side_strips;
        multiply_tile(a, b, row, col, steps, c.get(), kernels);
        const int64_t rows_here = std::min(side, left.num_columns - row * strip_rows);
        const int64_t cols_here = std::min(side, right.num_columns - col * strip_rows);
        for (int64_t i = 0; i < rows_here; ++i) {
          float* sums = to + (row * strip_rows + i) * stride + col * strip_rows;
          for (int64_t j = 0; j < cols_here; ++j) sums[j] += c[i * side + j];
        }
      }
    });
  }
}

void check(const Tensor& x, const Tensor& y, const Tensor& total) {
  STD_TORCH_CHECK(x.dim() == 2 && y.dim() == 2 && x.size(0) == y.size(0), "xty: x must be (n, d1) and y (n, d2)");
  STD_TORCH_CHECK(total.dim() == 2 && total.size(0) == x.size(1) && total.size(1) == y.size(1),
                  "xty: total must be (d1, d2)");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::BFloat16 && y.scalar_type() == ScalarType::BFloat16 &&
                      total.scalar_type() == ScalarType::Float,
                  "xty: x and y must be bfloat16, total float32");
  for (const Tensor* matrix : {&x, &y, &total}) {
    STD_TORCH_CHECK(matrix->size(1) <= 1 || matrix->stride(1) == 1, "xty: a row must be contiguous");
  }
}

void xty(Tensor x, Tensor y, Tensor total) {
  check(x, y, total);
#if defined(__x86_64__)
  STD_TORCH_CHECK(best_isa() == Isa::amx, "xty: this processor has no AMX");
  add_product(x, y, total, amx::kernels);
#else
  STD_TORCH_CHECK(false, "xty: this processor has no AMX");
#endif
}

void xty_emulated(Tensor x, Tensor y, Tensor total) {
  check(x, y, total);
  add_product(x, y, total, emulated::kernels);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(xbridge, m) {
  m.def("xty(Tensor x, Tensor y, Tensor(a!) total) -> ()");
  m.def("xty_amx_emulated(Tensor x, Tensor y, Tensor(a!) total) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(xbridge, CPU, m) {
  m.impl("xty", TORCH_BOX(&xty));
  m.impl("xty_amx_emulated", TORCH_BOX(&xty_emulated));
}

}  // namespace xbridge
