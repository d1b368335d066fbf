// Gram sums with AMX. Right operands of a window of panels are packed once, left ones by each thread as it goes along a
// row of tiles; a tile's inner products, kernel values and sums stay in cache.
//
// Sums do not depend on the number of threads: products are kept for each run of tiles and added in order; row sums are
// integers, whose order does not matter.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include "features.h"
#include "gram_amx_layer.h"
#include "targets.h"

namespace xbridge {
namespace {

constexpr int64_t max_side = 256;                   // rows and columns of a tile
constexpr int64_t max_tile_floats = 1 << 20;        // of all layers together: what stays in the outer caches
constexpr int64_t default_packed_bytes = 64 << 20;  // right operands held packed; a thread holds an eighth of left ones
constexpr int64_t run_tiles = 8;

XBRIDGE_BEGIN_FUSED

namespace emulated {
#include "amx_vectors.inl"
#include "amx_emulated.inl"
#include "amx_kernels.inl"
#include "gram_finish.inl"
#include "gram_amx.inl"
}  // namespace emulated

#if defined(__x86_64__)
XBRIDGE_BEGIN_TARGET(XBRIDGE_AVX512)
namespace amx {
#include "amx_vectors.inl"
#include "amx_hardware.inl"
#include "amx_kernels.inl"
#include "gram_finish.inl"
#include "gram_amx.inl"
}  // namespace amx
XBRIDGE_END_TARGET
#endif

XBRIDGE_END_FUSED

class AmxGram {
 public:
  AmxGram(const std::vector<GramLayer>& layers, Kernel kernel, const GramKernels& kernels, int64_t packed_bytes)
      : kernels_(kernels),
        packed_bytes_(packed_bytes),
        n_(layers[0].rows.size(0)),
        num_layers_(static_cast<int>(layers.size())) {
    side_ = std::clamp(n_ / 16 / strip_rows * strip_rows, strip_rows, max_side);
    while (side_ > strip_rows && side_ * side_ * num_layers_ > max_tile_floats) side_ -= strip_rows;
    panels_ = ceil_div(n_, side_);
    for (const GramLayer& layer : layers) layers_.push_back(planned(layer, kernel, kernels));
    for (const AmxLayer& layer : layers_) {
      panel_offsets_.push_back(panel_words_);
      panel_words_ += panel_words(layer);
    }
    window_ = std::clamp<int64_t>(packed_bytes / 4 / panel_words_, 1, panels_);
  }

  void sums(const GramTotals& totals) {
    for (int l = 0; l < num_layers_; ++l) measure(layers_[l], l, n_, panels_ * side_, kernels_);
    std::vector<double> products(static_cast<size_t>(num_layers_ * num_layers_));
    std::vector<int64_t> row_sums(static_cast<size_t>(num_layers_ * n_));
    const Aligned<uint32_t> right = aligned<uint32_t>(window_ * panel_words_);
    for (int64_t first = 0; first < panels_; first += window_) {
      const int64_t end = std::min(panels_, first + window_);
      pack_window(first, end, right.get());
      add_window(first, end, right.get(), products, row_sums.data());
    }
    restore(products, row_sums, totals);
  }

 private:
  // Tiles (row, first_col .. end_col - 1), in panels.
  struct Run {
    int64_t row, first_col, end_col;
  };

  struct Workspace {
    explicit Workspace(const AmxGram& gram)
        : holds_all(gram.panel_words_ * 4 <= gram.packed_bytes_ / 8),
          held(holds_all ? gram.num_layers_ : 1, std::pair<int, int64_t>(-1, -1)),
          left(aligned<uint32_t>(holds_all ? gram.panel_words_ : gram.largest_panel())),
          c(aligned<float>(gram.num_layers_ * gram.side_ * gram.side_)),
          row_sums(static_cast<size_t>(gram.side_)),
          col_sums(row_sums.size()) {}
    bool holds_all;
    std::vector<std::pair<int, int64_t>> held;  // layer and panel of each left operand
    Aligned<uint32_t> left;
    Aligned<float> c;
    std::vector<double> row_sums, col_sums;
  };

  int64_t panel_words(const AmxLayer& layer) const {
    return side_ / strip_rows * layer.source.strip_blocks * block_words;
  }

  int64_t largest_panel() const {
    int64_t largest = 0;
    for (const AmxLayer& layer : layers_) largest = std::max(largest, panel_words(layer));
    return largest;
  }

  int64_t rows_of(int64_t panel) const { return std::min(side_, n_ - panel * side_); }

  // Calls make_worker() on every thread and the worker with each number below `count`, whichever thread is free.
  template <typename MakeWorker>
  static void in_parallel(int64_t count, const MakeWorker& make_worker) {
    const int64_t num_threads = std::min<int64_t>(count, torch::stable::get_num_threads());
    std::atomic<int64_t> next{0};
    torch::stable::parallel_for(0, num_threads, 1, [&](int64_t, int64_t) {
      auto work = make_worker();
      for (int64_t i = next++; i < count; i = next++) work(i);
    });
  }

  void pack_window(int64_t first, int64_t end, uint32_t* right) const {
    in_parallel((end - first) * num_layers_, [&] {
      return [&, this](int64_t i) {
        const int64_t panel = first + i / num_layers_, l = i % num_layers_;
        uint32_t* to = right + (panel - first) * panel_words_ + panel_offsets_[l];
        kernels_.pack(layers_[l].source, panel * side_, rows_of(panel), true, to);
      };
    });
  }

  void add_window(int64_t first, int64_t end, const uint32_t* right, std::vector<double>& products,
                  int64_t* row_sums) const {
    std::vector<Run> runs;
    for (int64_t row = 0; row < end; ++row) {
      for (int64_t col = std::max(row, first); col < end; col += run_tiles) {
        runs.push_back({row, col, std::min(end, col + run_tiles)});
      }
    }
    std::vector<double> slots(runs.size() * products.size());
    in_parallel(static_cast<int64_t>(runs.size()), [&] {
      return [&, this, workspace = std::make_unique<Workspace>(*this)](int64_t i) {
        const Run& run = runs[i];
        for (int64_t col = run.first_col; col < run.end_col; ++col) {
          add_tile(run.row, col, right + (col - first) * panel_words_, *workspace, slots.data() + i * products.size(),
                   row_sums);
        }
      };
    });
    for (size_t at = 0; at < slots.size(); ++at) products[at % products.size()] += slots[at];
  }

  const uint32_t* left_operand(int l, int64_t panel, Workspace& workspace) const {
    const int slot = workspace.holds_all ? l : 0;
    uint32_t* to = workspace.left.get() + (workspace.holds_all ? panel_offsets_[l] : 0);
    if (workspace.held[slot] != std::pair(l, panel)) {
      kernels_.pack(layers_[l].source, panel * side_, rows_of(panel), false, to);
      workspace.held[slot] = {l, panel};
    }
    return to;
  }

  void add_tile(int64_t row, int64_t col, const uint32_t* right, Workspace& workspace, double* products,
                int64_t* row_sums) const {
    const Tile tile{side_, row * side_, rows_of(row), col * side_, rows_of(col), row == col};
    for (int l = 0; l < num_layers_; ++l) {
      const AmxLayer& layer = layers_[l];
      const float* halves = layer.halves.get();
      float* c = workspace.c.get() + l * side_ * side_;
      double *rows = workspace.row_sums.data(), *cols = workspace.col_sums.data();
      kernels_.configure();
      kernels_.inner_products(layer.source, layer.steps.data(), static_cast<int64_t>(layer.steps.size()),
                              left_operand(l, row, workspace), right + panel_offsets_[l], tile, c);
      kernels_.release();
      kernels_.finish(layer.curve, tile, halves + tile.first_row, halves + tile.first_col, c, rows, cols);
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
  void restore(const std::vector<double>& products, const std::vector<int64_t>& row_sums,
               const GramTotals& totals) const {
    const double others = static_cast<double>(n_ - 1), entries = static_cast<double>(n_) * others;
    std::vector<double> sums(static_cast<size_t>(num_layers_));
    for (int l = 0; l < num_layers_; ++l) {
      const AmxLayer& layer = layers_[l];
      for (int64_t i = 0; i < n_; ++i) {
        const double sum = static_cast<double>(row_sums[l * n_ + i]) * layer.row_sum_unit;
        sums[l] += sum;
        totals.row_sums[l * n_ + i] = layer.factor * sum + others * layer.constant;
      }
    }
    for (int l = 0; l < num_layers_; ++l) {
      for (int m = l; m < num_layers_; ++m) {
        const AmxLayer &a = layers_[l], &b = layers_[m];
        const double product = 2 * a.factor * b.factor * products[l * num_layers_ + m] +
                               a.factor * b.constant * sums[l] + a.constant * b.factor * sums[m] +
                               entries * a.constant * b.constant;
        totals.products[l * num_layers_ + m] = totals.products[m * num_layers_ + l] = product;
      }
      if (n_ > 1 && layers_[l].curve.shape != Kernel::linear) check_resolution(l, sums[l], totals);
    }
  }

  // Kernel values that are nearly all zero leave the range of float32 when squared, and the resolution of row sums.
  void check_resolution(int l, double sum, const GramTotals& totals) const {
    const AmxLayer& layer = layers_[l];
    const double rounded = layer.row_sum_unit * static_cast<double>(panels_ * n_);
    const double mean_product =
        totals.products[l * num_layers_ + l] / (static_cast<double>(n_) * static_cast<double>(n_ - 1));
    STD_TORCH_CHECK(layer.curve.unit == 1 || (rounded < 1e-9 * sum && mean_product > 1e-30), "gram_sums: layer ", l,
                    ": nearly all kernel values are zero in float32; use a wider bandwidth, or float64");
  }

  const GramKernels& kernels_;
  int64_t packed_bytes_, n_, side_, panels_, window_;
  int num_layers_;
  int64_t panel_words_ = 0;             // of all layers together
  std::vector<int64_t> panel_offsets_;  // of each layer in them
  std::vector<AmxLayer> layers_;
};

}  // namespace

void gram_sums_amx(const std::vector<GramLayer>& layers, Kernel kernel, const GramTotals& totals) {
  const GramKernels* kernels = nullptr;
#if defined(__x86_64__)
  kernels = &amx::kernels;
#endif
  STD_TORCH_CHECK(kernels != nullptr, "gram_sums: this processor has no AMX");
  AmxGram(layers, kernel, *kernels, default_packed_bytes).sums(totals);
}

namespace {

// Only for tests, on any processor, with arguments that are not checked: the operator gram_sums is what callers use.
std::tuple<Tensor, Tensor> emulated_op(std::vector<Tensor> layers, std::vector<Tensor> shifts,
                                       std::vector<double> scales, std::string kernel, std::vector<double> gammas,
                                       int64_t packed_bytes) {
  STD_TORCH_CHECK(!layers.empty() && shifts.size() == layers.size() && scales.size() == layers.size() &&
                      gammas.size() == layers.size(),
                  "gram_sums: needs one shift, scale and gamma per layer");
  std::vector<GramLayer> checked;
  for (size_t l = 0; l < layers.size(); ++l) {
    checked.push_back({layers[l], static_cast<const float*>(shifts[l].data_ptr()), static_cast<float>(scales[l]),
                       static_cast<float>(gammas[l])});
  }
  const int64_t num_layers = static_cast<int64_t>(layers.size()), n = layers[0].size(0);
  Tensor products = torch::stable::new_zeros(layers[0], {num_layers, num_layers}, ScalarType::Double);
  Tensor row_sums = torch::stable::new_zeros(layers[0], {num_layers, n}, ScalarType::Double);
  const Kernel shape = kernel == "linear" ? Kernel::linear : kernel == "rbf" ? Kernel::rbf : Kernel::laplacian;
  const GramTotals totals{static_cast<double*>(products.data_ptr()), static_cast<double*>(row_sums.data_ptr())};
  AmxGram(checked, shape, emulated::kernels, packed_bytes).sums(totals);
  return {products, row_sums};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(xbridge, m) {
  m.def(
      "gram_sums_amx_emulated(Tensor[] layers, Tensor[] shifts, float[] scales, str kernel, float[] gammas, "
      "int packed_bytes) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(xbridge, CPU, m) { m.impl("gram_sums_amx_emulated", TORCH_BOX(&emulated_op)); }

}  // namespace xbridge
