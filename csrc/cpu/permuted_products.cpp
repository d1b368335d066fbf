// Products of kernel matrices under many permutations of one of them, for permutation tests of all pairs of layers.
//
// Rows of l are rewritten so that the entries of all layers lie side by side: one look-up by a permutation's index then
// serves all pairs. Blocks of rows of k and of l stay in cache while all permutations that join them are served. Each
// permutation's sums are added by one thread in an order that does not depend on how many there are.

#include <algorithm>
#include <cstdint>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include "../common.h"
#include "aligned.h"
#include "features.h"
#include "targets.h"

namespace xbridge {
namespace {

constexpr int64_t run_length = 512;           // longest float32 sum
constexpr int64_t block_floats = 512 * 1024;  // of rows of k, and of rewritten rows of l, that are in cache together
constexpr int max_rows = 6;                   // layers of k served by one pass over a row

using AddProducts = void (*)(const float* const* left, const float* right, const int32_t* order, int64_t count, double* totals);

struct ProductKernels {
  int lanes, max_vectors;
  const AddProducts* add_products[2];  // [one vector of layers, max_vectors of them][layers of k - 1]
};

XBRIDGE_BEGIN_FUSED

namespace portable {
constexpr int lanes = 4, max_vectors = 2;
#include "permuted_products.inl"
}  // namespace portable

#if defined(__x86_64__)
XBRIDGE_BEGIN_TARGET(XBRIDGE_AVX2)
namespace avx2 {
constexpr int lanes = 8, max_vectors = 2;
#include "permuted_products.inl"
}  // namespace avx2
XBRIDGE_END_TARGET

XBRIDGE_BEGIN_TARGET(XBRIDGE_AVX512)
namespace avx512 {
constexpr int lanes = 16, max_vectors = 2;
#include "permuted_products.inl"
}  // namespace avx512
XBRIDGE_END_TARGET
#endif

XBRIDGE_END_FUSED

const ProductKernels& kernels_for(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::avx512) return avx512::kernels;
  if (isa == Isa::avx2) return avx2::kernels;
#endif
  return portable::kernels;
}

// (S, n, n) kernel matrices, contiguous.
struct Matrices {
  const float* data;
  int64_t num_layers, n;

  const float* row(int64_t layer, int64_t i) const { return data + (layer * n + i) * n; }
};

// A group of layers of l whose entries lie side by side, padded with zeros to `width`.
struct Group {
  int64_t first, count, width;
  const AddProducts* add_products;
};

void write_side_by_side(const Matrices& l, const Group& group, int64_t row, float* out) {
  std::fill(out, out + l.n * group.width, 0.0f);
  for (int64_t b = 0; b < group.count; ++b) {
    const float* from = l.row(group.first + b, row);
    for (int64_t j = 0; j < l.n; ++j) out[j * group.width + b] = from[j];
  }
}

// All layers of k with one group of layers of l, for the permutations [first, last): (P, S_a, width) sums over j < i.
class GroupProducts {
 public:
  GroupProducts(const Matrices& k, const Matrices& l, const std::vector<int32_t>& orders, const Group& group)
      : k_(k),
        l_(l),
        orders_(orders),
        group_(group),
        left_rows_(std::clamp<int64_t>(block_floats / (k.num_layers * k.n), 1, k.n)),
        right_rows_(std::clamp<int64_t>(block_floats / (group.width * k.n), 1, k.n)),
        right_(aligned<float>(right_rows_ * k.n * group.width)) {}

  void add(int64_t first, int64_t last, double* totals) const {
    const int64_t n = k_.n;
    for (int64_t right = 0; right < n; right += right_rows_) {
      const int64_t right_end = std::min(n, right + right_rows_);
      for (int64_t row = right; row < right_end; ++row) {
        write_side_by_side(l_, group_, row, right_.get() + (row - right) * n * group_.width);
      }
      for (int64_t left = 0; left < n; left += left_rows_) {
        for (int64_t p = first; p < last; ++p) {
          const int32_t* order = orders_.data() + p * n;
          for (int64_t i = left; i < std::min(n, left + left_rows_); ++i) {
            if (order[i] < right || order[i] >= right_end) continue;
            add_row(i, right_.get() + (order[i] - right) * n * group_.width, order, totals + p * k_.num_layers * group_.width);
          }
        }
      }
    }
  }

 private:
  // In passes of about equally many layers of k.
  void add_row(int64_t i, const float* right, const int32_t* order, double* totals) const {
    const float* left[max_rows];
    const int64_t passes = ceil_div(k_.num_layers, max_rows);
    for (int64_t pass = 0; pass < passes; ++pass) {
      const int64_t begin = pass * k_.num_layers / passes, end = (pass + 1) * k_.num_layers / passes;
      for (int64_t a = begin; a < end; ++a) left[a - begin] = k_.row(a, i);
      group_.add_products[end - begin - 1](left, right, order, i, totals + begin * group_.width);
    }
  }

  const Matrices &k_, &l_;
  const std::vector<int32_t>& orders_;
  const Group& group_;
  int64_t left_rows_, right_rows_;
  Aligned<float> right_;
};

std::vector<int32_t> checked_orders(const Tensor& orders, int64_t n) {
  const int64_t* from = static_cast<const int64_t*>(orders.data_ptr());
  std::vector<int32_t> result(static_cast<size_t>(orders.numel()));
  std::vector<int64_t> last_seen(static_cast<size_t>(n), -1);
  for (int64_t p = 0; p < orders.size(0); ++p) {
    for (int64_t i = 0; i < n; ++i) {
      const int64_t index = from[p * n + i];
      STD_TORCH_CHECK(index >= 0 && index < n && last_seen[index] != p, "permuted_products: row ", p,
                      " of orders is not a permutation of 0 .. ", n - 1);
      last_seen[index] = p;
      result[p * n + i] = static_cast<int32_t>(index);
    }
  }
  return result;
}

Tensor permuted_products(Tensor k, Tensor l, Tensor orders) {
  STD_TORCH_CHECK(k.dim() == 3 && l.dim() == 3 && orders.dim() == 2, "permuted_products: k, l must be (S, n, n), orders (P, n)");
  const int64_t n = orders.size(1), num_orders = orders.size(0), left_layers = k.size(0), right_layers = l.size(0);
  STD_TORCH_CHECK(k.size(1) == n && k.size(2) == n && l.size(1) == n && l.size(2) == n && n < (int64_t{1} << 31),
                  "permuted_products: k and l must be (S, n, n) and orders (P, n), with one n");
  STD_TORCH_CHECK(k.scalar_type() == ScalarType::Float && l.scalar_type() == ScalarType::Float && k.is_contiguous() &&
                      l.is_contiguous(),
                  "permuted_products: k and l must be contiguous float32");
  STD_TORCH_CHECK(orders.scalar_type() == ScalarType::Long && orders.is_contiguous(),
                  "permuted_products: orders must be contiguous int64");
  const std::vector<int32_t> order = checked_orders(orders, n);
  const Matrices left{static_cast<const float*>(k.data_ptr()), left_layers, n};
  const Matrices right{static_cast<const float*>(l.data_ptr()), right_layers, n};
  const ProductKernels& kernels = kernels_for(best_isa());
  Tensor out = torch::stable::new_zeros(k, {num_orders, left_layers, right_layers}, ScalarType::Double);
  double* results = static_cast<double*>(out.data_ptr());
  for (int64_t first = 0; first < right_layers;) {
    const bool narrow = right_layers - first <= kernels.lanes;
    const int64_t width = narrow ? kernels.lanes : kernels.lanes * kernels.max_vectors;
    const Group group{first, std::min(width, right_layers - first), width, kernels.add_products[narrow ? 0 : 1]};
    std::vector<double> totals(static_cast<size_t>(num_orders * left_layers * width));
    torch::stable::parallel_for(0, num_orders, 1, [&](int64_t begin, int64_t end) {
      GroupProducts(left, right, order, group).add(begin, end, totals.data());
    });
    for (int64_t row = 0; row < num_orders * left_layers; ++row) {
      for (int64_t b = 0; b < group.count; ++b) results[row * right_layers + first + b] = 2 * totals[row * width + b];
    }
    first += group.count;
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(xbridge, CPU, m) { m.impl("permuted_products", TORCH_BOX(&permuted_products)); }

}  // namespace xbridge
