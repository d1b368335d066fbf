// Products of two sets of float32 rows on their way into short lists of candidates, one list per row of either: computed in
// tiles that are scanned both ways while they are in the cache.
//
// A list keeps every score that may still be among the k best: all above (k-th best seen) - 2 slack, where slack bounds
// the error of a score. Its threshold is set anew only when it is full, which happens a few times in a whole search, so
// nearly all the work is one comparison per score. A list that stays full is given up (count -1): the caller searches
// that row in float64.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include "aligned.h"
#include "features.h"
#include "panels.h"
#include "targets.h"

namespace xbridge {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// score_ij = values_ij + add_columns_j + add_rows_i, divided by divide_columns_j + divide_rows_i where these are given.
struct Block {
  const float* values;  // (rows, columns)
  int64_t stride;
  const float* add_rows;
  const float* add_columns;
  const float* divide_rows;
  const float* divide_columns;
};

struct Lists {
  float* scores;     // (lists, capacity)
  int32_t* indices;  // (lists, capacity)
  int32_t* counts;   // (lists,), -1: given up
  float* thresholds;
  const double* slack;
  int64_t capacity, k, first;  // first: the number of the block's first row or column among all
};

// The largest float32 below x, so that "score > threshold" keeps every score that is x or more.
float just_below(double x) {
  const float rounded = static_cast<float>(x);
  return rounded < x ? rounded : std::nextafter(rounded, -infinity);
}

void prune(const Lists& lists, int64_t list) {
  float* scores = lists.scores + list * lists.capacity;
  int32_t* indices = lists.indices + list * lists.capacity;
  thread_local std::vector<float> order;
  order.assign(scores, scores + lists.capacity);
  const auto kth = order.begin() + (lists.k - 1);
  std::nth_element(order.begin(), kth, order.end(), std::greater<>());
  const float threshold = just_below(static_cast<double>(*kth) - 2 * lists.slack[list]);
  int32_t kept = 0;
  for (int64_t t = 0; t < lists.capacity; ++t) {
    if (!(scores[t] > threshold)) continue;
    scores[kept] = scores[t];
    indices[kept++] = indices[t];
  }
  // a list that is nearly full would be pruned at every other score
  const bool crowded = kept > lists.capacity - std::max<int64_t>(1, lists.capacity / 8);
  lists.counts[list] = crowded ? -1 : kept;
  lists.thresholds[list] = crowded ? infinity : threshold;
}

inline void offer(const Lists& lists, int64_t list, float score, int64_t index) {
  if (!(score > lists.thresholds[list])) return;
  int32_t& count = lists.counts[list];
  lists.scores[list * lists.capacity + count] = score;
  lists.indices[list * lists.capacity + count] = static_cast<int32_t>(lists.first + index);
  if (++count == lists.capacity) prune(lists, list);
}

constexpr int64_t strip_rows = 192, strip_columns = 256;  // of a tile of products: multiples of every register block

// Rows as packed panels, and a tile of products of packed rows.
struct PanelKernels {
  void (*pack_left)(const Rows&, int64_t first, int64_t count, float* out);
  void (*pack_right)(const Rows&, int64_t first, int64_t count, float* out);
  void (*multiply)(const float* left, const float* right, int64_t dim, int64_t rows, int64_t columns, float* c);
};

XBRIDGE_BEGIN_FUSED

namespace portable {
#define LANES 16  // the width of AVX-512, in whatever vectors there are
#include "neighbours.inl"
#undef LANES
namespace panels {
constexpr int lanes = 4, block_rows = 4, block_vectors = 2;
#include "panels.inl"
#include "neighbours_panels.inl"
}  // namespace panels
}  // namespace portable

#if defined(__x86_64__)
XBRIDGE_BEGIN_TARGET(XBRIDGE_AVX2)
namespace avx2 {
#define LANES 8
#include "neighbours.inl"
#undef LANES
namespace panels {
constexpr int lanes = 8, block_rows = 6, block_vectors = 2;
#include "panels.inl"
#include "neighbours_panels.inl"
}  // namespace panels
}  // namespace avx2
XBRIDGE_END_TARGET

XBRIDGE_BEGIN_TARGET(XBRIDGE_AVX512)
namespace avx512 {
#define LANES 16
#include "neighbours.inl"
#undef LANES
namespace panels {
constexpr int lanes = 16, block_rows = 12, block_vectors = 2;
#include "panels.inl"
#include "neighbours_panels.inl"
}  // namespace panels
}  // namespace avx512
XBRIDGE_END_TARGET
#endif

XBRIDGE_END_FUSED

const PanelKernels& best_panels() {
#if defined(__x86_64__)
  if (best_isa() >= Isa::avx512) return avx512::panels::kernels;
  if (best_isa() == Isa::avx2) return avx2::panels::kernels;
#endif
  return portable::panels::kernels;
}

template <bool by_column, bool divides>
auto chosen_scan() {
#if defined(__x86_64__)
  const Isa isa = best_isa();
  if (isa >= Isa::avx512) return &avx512::scan<by_column, divides>;
  if (isa >= Isa::avx2) return &avx2::scan<by_column, divides>;
#endif
  return &portable::scan<by_column, divides>;
}

bool is_vector(const Tensor& x, int64_t size, ScalarType type) {
  return x.dim() == 1 && x.size(0) == size && x.scalar_type() == type && x.is_contiguous();
}

Lists lists_of(const std::vector<Tensor>& tensors, int64_t lists, int64_t k, int64_t first) {
  const Tensor &slack = tensors[0], &scores = tensors[1], &indices = tensors[2], &counts = tensors[3], &thresholds = tensors[4];
  STD_TORCH_CHECK(scores.dim() == 2 && scores.size(0) == lists && scores.size(1) > k && k > 0 &&
                      scores.scalar_type() == ScalarType::Float && scores.is_contiguous(),
                  "scan_products: scores must be (lists, capacity) float32 with a capacity above k");
  STD_TORCH_CHECK(indices.dim() == 2 && indices.size(0) == lists && indices.size(1) == scores.size(1) &&
                      indices.scalar_type() == ScalarType::Int && indices.is_contiguous(),
                  "scan_products: indices must be int32 of the shape of scores");
  STD_TORCH_CHECK(is_vector(slack, lists, ScalarType::Double) && is_vector(counts, lists, ScalarType::Int) &&
                      is_vector(thresholds, lists, ScalarType::Float),
                  "scan_products: slack, counts and thresholds must be (lists,) float64, int32 and float32");
  return {static_cast<float*>(scores.data_ptr()),     static_cast<int32_t*>(indices.data_ptr()),
          static_cast<int32_t*>(counts.data_ptr()),   static_cast<float*>(thresholds.data_ptr()),
          static_cast<const double*>(slack.data_ptr()), scores.size(1), k, first};
}

// terms: what is added to rows and columns, and what divides them, the last two empty where nothing does. No values yet.
Block block_of(const std::vector<Tensor>& terms, int64_t rows, int64_t columns) {
  STD_TORCH_CHECK(is_vector(terms[0], rows, ScalarType::Float) && is_vector(terms[1], columns, ScalarType::Float),
                  "scan_products: add_rows and add_columns must be float32, one each per row and column");
  STD_TORCH_CHECK(terms[2].size(0) == 0 || (is_vector(terms[2], rows, ScalarType::Float) &&
                                            is_vector(terms[3], columns, ScalarType::Float)),
                  "scan_products: divide_rows and divide_columns must be float32, one each per row and column, or empty");
  const auto floats = [&](int which) { return static_cast<const float*>(terms[which].data_ptr()); };
  return {nullptr, 0, floats(0), floats(1), floats(2), floats(3)};
}

// The lists from number `list` on, for scores whose numbers begin `offset` after those of all.
Lists from(const Lists& lists, int64_t list, int64_t offset) {
  Lists part = lists;
  part.scores += list * lists.capacity;
  part.indices += list * lists.capacity;
  part.counts += list;
  part.thresholds += list;
  part.slack += list;
  part.first += offset;
  return part;
}

constexpr int64_t no_diagonal = std::numeric_limits<int64_t>::max();

// The pairs (i, i + diagonal) are left out. A thread takes strips of rows, whose lists are its own, through all strips of
// columns, whose lists are locked. The order in which these are filled is free: what the lists keep is certain to hold the best, however they were filled.
template <bool divides>
void scan_products_of(const Rows& left, int64_t rows, const Rows& right, int64_t columns, const Block& terms,
                      const Lists& forward, const Lists* backward, int64_t diagonal) {
  const PanelKernels& kernels = best_panels();
  const auto scan_rows = chosen_scan<false, divides>();
  const auto scan_columns = chosen_scan<true, divides>();
  const int64_t depth = ceil_div(left.dim, 4) * 4, strips = ceil_div(rows, strip_rows), stacks = ceil_div(columns, strip_columns);
  const Aligned<float> packed = aligned<float>(stacks * strip_columns * depth);
  torch::stable::parallel_for(0, stacks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin * strip_columns; j < std::min(columns, end * strip_columns); j += strip_columns) {
      kernels.pack_right(right, j, std::min(strip_columns, columns - j), packed.get() + j * depth);
    }
  });
  const std::unique_ptr<std::mutex[]> locks(new std::mutex[stacks]);
  std::atomic<int64_t> next{0};
  const int64_t num_threads = std::min<int64_t>(strips, torch::stable::get_num_threads());
  torch::stable::parallel_for(0, num_threads, 1, [&](int64_t, int64_t) {
    const Aligned<float> own = aligned<float>(strip_rows * depth), c = aligned<float>(strip_rows * strip_columns);
    for (int64_t strip = next++; strip < strips; strip = next++) {
      const int64_t i = strip * strip_rows, height = std::min(strip_rows, rows - i);
      kernels.pack_left(left, i, height, own.get());
      for (int64_t j = 0; j < columns; j += strip_columns) {
        const int64_t width = std::min(strip_columns, columns - j);
        kernels.multiply(own.get(), packed.get() + j * depth, left.dim, height, width, c.get());
        for (int64_t a = 0; diagonal != no_diagonal && a < height; ++a) {
          const int64_t b = i + a + diagonal - j;
          if (b >= 0 && b < width) c.get()[a * strip_columns + b] = -infinity;
        }
        const Block tile{c.get(), strip_columns, terms.add_rows + i, terms.add_columns + j,
                         divides ? terms.divide_rows + i : nullptr, divides ? terms.divide_columns + j : nullptr};
        scan_rows(tile, from(forward, i, j), 0, height, 0, width);
        if (backward == nullptr) continue;
        const std::lock_guard<std::mutex> lock(locks[j / strip_columns]);
        scan_columns(tile, from(*backward, j, i), 0, height, 0, width);
      }
    }
  });
}

void scan_products(Tensor left, Tensor right, std::vector<Tensor> terms, std::vector<Tensor> forward,
                   std::vector<Tensor> backward, std::vector<int64_t> k, std::vector<int64_t> first, bool exclude_self) {
  STD_TORCH_CHECK(left.dim() == 2 && right.dim() == 2 && left.size(1) == right.size(1) && left.size(0) > 0 &&
                      right.size(0) > 0 && left.size(1) > 0 && left.is_contiguous() && right.is_contiguous() &&
                      left.scalar_type() == ScalarType::Float && right.scalar_type() == ScalarType::Float,
                  "scan_products: left must be (rows, d) and right (columns, d) float32, contiguous, none of these 0");
  STD_TORCH_CHECK(terms.size() == 4 && forward.size() == 5 && (backward.empty() || backward.size() == 5) && k.size() == 2 &&
                      first.size() == 2,
                  "scan_products: needs four terms, lists of five tensors, two numbers k and two first");
  const int64_t rows = left.size(0), columns = right.size(0), dim = left.size(1);
  STD_TORCH_CHECK(std::min(first[0], first[1]) >= 0 && first[0] + rows <= std::numeric_limits<int32_t>::max() &&
                      first[1] + columns <= std::numeric_limits<int32_t>::max(),
                  "scan_products: indices beyond 32 bits");
  const std::vector<float> zeros(static_cast<size_t>(dim));
  const auto rows_of = [&](const Tensor& x) { return Rows{x.data_ptr(), ScalarType::Float, dim, dim, zeros.data(), 1}; };
  const Block added = block_of(terms, rows, columns);
  const Lists of_rows = lists_of(forward, rows, k[0], first[1]);
  const Lists of_columns = backward.empty() ? Lists{} : lists_of(backward, columns, k[1], first[0]);
  const auto scan = terms[2].size(0) > 0 ? &scan_products_of<true> : &scan_products_of<false>;
  scan(rows_of(left), rows, rows_of(right), columns, added, of_rows, backward.empty() ? nullptr : &of_columns,
       exclude_self ? first[0] - first[1] : no_diagonal);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(xbridge, CPU, m) {
  m.impl("scan_products", TORCH_BOX(&scan_products));
}

}  // namespace xbridge
