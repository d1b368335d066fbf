// Gram sums on vectors: every tile pair I <= J of all layers' kernel matrices is computed once, in cache, and summed.
//
// What is summed is not k but a multiple of k minus a constant near its mean, v = (k - constant) / factor: float32 then
// holds what HSIC sees, the deviations. It is undone in float64. Sums do not depend on the number of threads: products
// are kept for each run of tiles and added in order; row sums are integers, whose order does not matter.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include "aligned.h"
#include "features.h"
#include "gram_vector.h"
#include "panels.h"
#include "targets.h"

namespace xbridge {
namespace {

constexpr int64_t side_unit = 96;        // a multiple of every kernel's register block, both ways
constexpr int64_t max_side = 384;
constexpr int64_t run_rows = 96;         // longest float32 sum along a column
constexpr int64_t run_vectors = 128;     // longest float32 sum of products of layers, per lane
constexpr int64_t max_tile_floats = 1 << 20;   // of all layers together: what stays in the outer caches
constexpr int64_t max_batch_floats = 1 << 22;  // of all layers together, where one thread has it all
constexpr int64_t shared_panels = 16;          // so many, where threads share: enough tiles for all
constexpr int64_t max_tasks = 512;
constexpr int64_t pilot_rows = 16;
constexpr int64_t size_rows = 4;  // enough for the order of magnitude of a length

struct Tile {
  int64_t side, first_row, rows, first_col, cols;
  bool diagonal;
};

// v = 2^(offset - distance) - unit with distance = |x - y|^2 / 2 (rbf) or its square root (laplacian); linear: x . y.
struct Curve {
  Kernel shape;
  float offset, unit;
};

struct TileKernels {
  void (*squared_lengths)(const Rows&, int64_t first, int64_t count, float* scratch, float* out);
  void (*quick_lengths)(const Rows&, int64_t first, int64_t count, float* scratch, float* out);
  void (*inner_products)(const Rows&, const Tile&, float* scratch, float* c);
  void (*finish)(const Curve&, const Tile&, const float* half_rows, const float* half_cols, float* c, double* row_sums,
                 double* col_sums);
  void (*layer_products)(const float* c, int64_t layer_stride, int64_t count, int num_layers, double* totals);
};

XBRIDGE_BEGIN_FUSED

namespace portable {
constexpr int lanes = 4, block_rows = 4, block_vectors = 2;
#include "panels.inl"
#include "gram_vector.inl"
}  // namespace portable

namespace wide {
constexpr int lanes = 16, block_rows = 12, block_vectors = 2;
#include "panels.inl"
#include "gram_vector.inl"
}  // namespace wide

#if defined(__x86_64__)
XBRIDGE_BEGIN_TARGET(XBRIDGE_AVX2)
namespace avx2 {
constexpr int lanes = 8, block_rows = 6, block_vectors = 2;
#include "panels.inl"
#include "gram_vector.inl"
}  // namespace avx2
XBRIDGE_END_TARGET

XBRIDGE_BEGIN_TARGET(XBRIDGE_AVX512)
namespace avx512 {
constexpr int lanes = 16, block_rows = 12, block_vectors = 2;
#include "panels.inl"
#include "gram_vector.inl"
}  // namespace avx512
XBRIDGE_END_TARGET
#endif

XBRIDGE_END_FUSED

const TileKernels& kernels_for(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::avx512) return avx512::kernels;
  if (isa == Isa::avx2) return avx2::kernels;
#endif
  return portable::kernels;
}

// A layer's v and how to return to k = factor v + constant.
struct Prepared {
  Rows rows;
  Curve curve;
  double factor, constant;
  Aligned<float> half_lengths;    // (n, then zeros up to a whole tile) |x_i|^2 / 2
  double row_sum_unit;    // row sums are counted in these, a power of two
};

double value_at(const Rows& rows, int64_t i, int64_t k) {
  const int64_t at = i * rows.stride + k;
  double x = 0;
  switch (rows.type) {
    case ScalarType::Half: x = static_cast<const torch::headeronly::Half*>(rows.data)[at]; break;
    case ScalarType::BFloat16: x = static_cast<const torch::headeronly::BFloat16*>(rows.data)[at]; break;
    default: x = static_cast<const float*>(rows.data)[at];
  }
  return x - rows.shift[k];
}

double mean_square(const Rows& rows, int64_t n, int64_t count) {
  double total = 0;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t k = 0; k < rows.dim; ++k) total += std::pow(value_at(rows, i * n / count, k), 2);
  }
  return total / static_cast<double>(count);
}

// The mean of exp(-gamma |x - y|^2) or exp(-gamma |x - y|) over pairs of a few rows, evenly spaced.
double mean_kernel(const Rows& rows, int64_t n, double scale, double gamma, bool root) {
  const int64_t count = std::min(n, pilot_rows);
  std::vector<double> pilot(static_cast<size_t>(count * rows.dim));
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t k = 0; k < rows.dim; ++k) pilot[i * rows.dim + k] = value_at(rows, i * n / count, k) * scale;
  }
  double total = 0;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j < i; ++j) {
      double squared = 0;
      for (int64_t k = 0; k < rows.dim; ++k) {
        const double difference = pilot[i * rows.dim + k] - pilot[j * rows.dim + k];
        squared += difference * difference;
      }
      total += std::exp(-gamma * (root ? std::sqrt(squared) : squared));
    }
  }
  return count < 2 ? 0 : total / static_cast<double>(count * (count - 1) / 2);
}

// Linear kernels are computed of rows of length about 1, so that no square leaves float32's range.
void choose_linear(Prepared& layer, int64_t n, double scale) {
  double size = mean_square(layer.rows, n, std::min(n, size_rows));
  if (size == 0) size = mean_square(layer.rows, n, n);
  const double unit = size > 0 && std::isfinite(size) ? std::exp2(-std::round(std::log2(size) / 2)) : 1;
  layer.rows.scale = static_cast<float>(unit);
  layer.curve = {Kernel::linear, 0, 0};
  layer.factor = std::pow(scale / unit, 2);
  layer.constant = 0;
}

// k = 2^-distance = 2^-offset (v + 1); where k is mostly far below its largest values, v = k holds them better.
void choose_curve(Prepared& layer, int64_t n, double scale, Kernel kernel, double gamma) {
  constexpr double smallest_mean = 0.05, log2_e = 1.4426950408889634;
  const bool root = kernel == Kernel::laplacian;
  const double mean = mean_kernel(layer.rows, n, scale, gamma, root);
  const bool about_mean = mean > smallest_mean;
  const float offset = about_mean ? static_cast<float>(-std::log2(mean)) : 0.0f;
  layer.rows.scale = static_cast<float>(scale * (root ? std::sqrt(2.0) * gamma * log2_e : std::sqrt(2 * gamma * log2_e)));
  layer.curve = {kernel, offset, about_mean ? 1.0f : 0.0f};
  layer.factor = std::exp2(-static_cast<double>(offset));
  layer.constant = about_mean ? layer.factor : 0;
}

class Gram {
 public:
  Gram(const std::vector<GramLayer>& layers, Kernel kernel, const TileKernels& kernels, int64_t least_panels, int64_t max_floats)
      : kernels_(kernels), n_(layers[0].rows.size(0)), num_layers_(static_cast<int>(layers.size())) {
    const int64_t panel = least_panels == 1 ? ceil_div(n_, side_unit) : n_ / least_panels / side_unit;
    side_ = std::clamp(panel * side_unit, side_unit, max_side);
    while (side_ > side_unit && side_ * side_ * num_layers_ > max_floats) side_ -= side_unit;
    for (const GramLayer& layer : layers) {
      const Tensor& x = layer.rows;
      Prepared prepared{};
      prepared.rows = {x.data_ptr(), x.scalar_type(), x.stride(0), x.size(1), layer.shift, 1};
      if (kernel == Kernel::linear) {
        choose_linear(prepared, n_, layer.scale);
      } else {
        choose_curve(prepared, n_, layer.scale, kernel, layer.gamma);
      }
      layers_.push_back(std::move(prepared));
    }
  }

  void sums(const GramTotals& totals) {
    for (int l = 0; l < num_layers_; ++l) measure(l);
    const int64_t panels = ceil_div(n_, side_), tiles = panels * (panels + 1) / 2, per_task = ceil_div(tiles, max_tasks);
    const int64_t tasks = ceil_div(tiles, per_task), num_threads = std::min<int64_t>(tasks, torch::stable::get_num_threads());
    std::vector<double> products(static_cast<size_t>(tasks * num_layers_ * num_layers_));
    std::vector<int64_t> row_sums(static_cast<size_t>(num_layers_ * n_));
    std::atomic<int64_t> next{0};
    torch::stable::parallel_for(0, num_threads, 1, [&](int64_t, int64_t) {
      const Workspace workspace(*this);
      for (int64_t task = next++; task < tasks; task = next++) {
        double* to = products.data() + task * num_layers_ * num_layers_;
        for (int64_t t = task * per_task; t < std::min(tiles, (task + 1) * per_task); ++t) {
          add_tile(tile_at(t, panels), workspace, to, row_sums.data());
        }
      }
    });
    restore(products, row_sums, tasks, totals);
  }

 private:
  struct Workspace {
    explicit Workspace(const Gram& gram)
        : scratch(aligned<float>(2 * panel_depth * gram.side_)),
          c(aligned<float>(gram.num_layers_ * gram.side_ * gram.side_)),
          row_sums(new double[gram.side_]),
          col_sums(new double[gram.side_]) {}
    Aligned<float> scratch, c;
    std::unique_ptr<double[]> row_sums, col_sums;
  };

  // Squared lengths, which also show what is not finite, and from them the unit of row sums.
  void measure(int index) {
    Prepared& layer = layers_[index];
    const bool linear = layer.curve.shape == Kernel::linear;
    const int64_t padded = ceil_div(n_, side_) * side_;
    layer.half_lengths = aligned<float>(padded);
    float* lengths = layer.half_lengths.get();
    std::fill(lengths + n_, lengths + padded, 0.0f);
    const auto squared_lengths = linear ? kernels_.quick_lengths : kernels_.squared_lengths;
    torch::stable::parallel_for(0, ceil_div(n_, side_unit), ceil_div(32, layer.rows.dim / 64 + 1), [&](int64_t begin, int64_t end) {
      const Aligned<float> scratch = aligned<float>(panel_depth * side_unit);
      const int64_t first = begin * side_unit;
      squared_lengths(layer.rows, first, std::min(n_, end * side_unit) - first, scratch.get(), lengths + first);
    });
    // products of two inner products, 128 of them, must stay below 3.4e38
    const float longest = linear ? 1e17f : 1e30f;
    double total = 0;
    for (int64_t i = 0; i < n_; ++i) {
      STD_TORCH_CHECK(lengths[i] <= longest, "gram_sums: layer ", index, ", row ", i,
                      " is not finite, or too far from the others for float32");
      total += lengths[i];
    }
    const double largest = *std::max_element(lengths, lengths + n_);
    const double bound = linear ? std::sqrt(largest * total * static_cast<double>(n_))
                                : std::exp2(layer.curve.offset) * static_cast<double>(n_);
    layer.row_sum_unit = bound > 0 ? std::exp2(std::ceil(std::log2(bound)) - 61) : 1;
    for (int64_t i = 0; i < n_; ++i) lengths[i] /= 2;
  }

  Tile tile_at(int64_t index, int64_t panels) const {
    int64_t row = 0;
    while (index >= panels - row) index -= panels - row++;
    const int64_t first_row = row * side_, first_col = (row + index) * side_;
    return {side_, first_row, std::min(side_, n_ - first_row), first_col, std::min(side_, n_ - first_col), index == 0};
  }

  void add_tile(const Tile& tile, const Workspace& workspace, double* products, int64_t* row_sums) const {
    for (int l = 0; l < num_layers_; ++l) {
      const Prepared& layer = layers_[l];
      const float* half_lengths = layer.half_lengths.get();
      float* c = workspace.c.get() + l * side_ * side_;
      double *rows = workspace.row_sums.get(), *cols = workspace.col_sums.get();
      kernels_.inner_products(layer.rows, tile, workspace.scratch.get(), c);
      kernels_.finish(layer.curve, tile, half_lengths + tile.first_row, half_lengths + tile.first_col, c, rows, cols);
      int64_t* to = row_sums + l * n_;
      for (int64_t i = 0; i < tile.rows; ++i) add_exactly(to + tile.first_row + i, rows[i] / layer.row_sum_unit);
      for (int64_t j = 0; j < tile.cols; ++j) add_exactly(to + tile.first_col + j, cols[j] / layer.row_sum_unit);
    }
    kernels_.layer_products(workspace.c.get(), side_ * side_, tile.rows * side_, num_layers_, products);
  }

  static void add_exactly(int64_t* total, double value) {
    __atomic_fetch_add(total, static_cast<int64_t>(std::llrint(value)), __ATOMIC_RELAXED);
  }

  // From sums of v over half of the entries to sums of k = factor v + constant over all.
  void restore(const std::vector<double>& products, const std::vector<int64_t>& row_sums, int64_t tasks,
               const GramTotals& totals) const {
    const double others = static_cast<double>(n_ - 1), entries = static_cast<double>(n_) * others;
    std::vector<double> sums(num_layers_);
    for (int l = 0; l < num_layers_; ++l) {
      const Prepared& layer = layers_[l];
      for (int64_t i = 0; i < n_; ++i) {
        const double sum = static_cast<double>(row_sums[l * n_ + i]) * layer.row_sum_unit;
        sums[l] += sum;
        totals.row_sums[l * n_ + i] = layer.curve.shape == Kernel::linear ? layer.factor * sum
                                                                          : layer.factor * sum + others * layer.constant;
      }
    }
    for (int l = 0; l < num_layers_; ++l) {
      for (int m = l; m < num_layers_; ++m) {
        const Prepared &a = layers_[l], &b = layers_[m];
        double sum = 0;
        for (int64_t task = 0; task < tasks; ++task) sum += products[(task * num_layers_ + l) * num_layers_ + m];
        const double product = 2 * a.factor * b.factor * sum + a.factor * b.constant * sums[l] +
                               a.constant * b.factor * sums[m] + entries * a.constant * b.constant;
        totals.products[l * num_layers_ + m] = totals.products[m * num_layers_ + l] = product;
      }
      if (n_ > 1 && layers_[l].curve.shape != Kernel::linear) check_resolution(l, sums[l], totals);
    }
  }

  // Kernel values that are nearly all zero leave the range of float32 when squared, and the resolution of row sums.
  void check_resolution(int l, double sum, const GramTotals& totals) const {
    const Prepared& layer = layers_[l];
    const double rounded = layer.row_sum_unit * static_cast<double>(ceil_div(n_, side_) * n_);
    const double mean_product = totals.products[l * num_layers_ + l] / (static_cast<double>(n_) * static_cast<double>(n_ - 1));
    STD_TORCH_CHECK(layer.curve.unit == 1 || (rounded < 1e-9 * sum && mean_product > 1e-30), "gram_sums: layer ", l,
                    ": nearly all kernel values are zero in float32; use a wider bandwidth, or float64");
  }

  const TileKernels& kernels_;
  int64_t n_, side_;
  int num_layers_;
  std::vector<Prepared> layers_;
};

}  // namespace

void gram_sums_vector(const std::vector<GramLayer>& layers, Kernel kernel, const GramTotals& totals) {
  Gram(layers, kernel, kernels_for(best_isa()), shared_panels, max_tile_floats).sums(totals);
}

void gram_sums_of_batch(const std::vector<GramLayer>& layers, Kernel kernel, const GramTotals& totals) {
  Gram(layers, kernel, kernels_for(best_isa()), 1, max_batch_floats).sums(totals);
}

void gram_sums_wide(const std::vector<GramLayer>& layers, Kernel kernel, const GramTotals& totals) {
  Gram(layers, kernel, wide::kernels, shared_panels, max_tile_floats).sums(totals);
}

}  // namespace xbridge
