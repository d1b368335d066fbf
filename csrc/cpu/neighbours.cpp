// One block of float32 scores on its way into short lists of candidates, one list per row or one per column.
//
// A list keeps every score that may still be among the k best: all above (k-th best seen) - 2 slack, where slack bounds
// the error of a score. Its threshold is set anew only when it is full, which happens a few times in a whole search, so
// nearly all the work is one comparison per score. A list that stays full is given up (count -1): the caller searches
// that row in float64.

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include "../common.h"
#include "features.h"
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

namespace portable {
#define LANES 16  // the width of AVX-512, in whatever vectors there are
#include "neighbours.inl"
#undef LANES
}  // namespace portable

#if defined(__x86_64__)
XBRIDGE_BEGIN_TARGET("avx2")
namespace avx2 {
#define LANES 8
#include "neighbours.inl"
#undef LANES
}  // namespace avx2
XBRIDGE_END_TARGET

XBRIDGE_BEGIN_TARGET("avx512f,avx512bw,avx512vl,avx512dq")
namespace avx512 {
#define LANES 16
#include "neighbours.inl"
#undef LANES
}  // namespace avx512
XBRIDGE_END_TARGET
#endif

template <bool by_column, bool divides>
auto chosen_scan() {
#if defined(__x86_64__)
  const Isa isa = best_isa();
  if (isa >= Isa::avx512) return &avx512::scan<by_column, divides>;
  if (isa >= Isa::avx2) return &avx2::scan<by_column, divides>;
#endif
  return &portable::scan<by_column, divides>;
}

template <bool by_column, bool divides>
void scan_all(const Block& block, const Lists& lists, int64_t rows, int64_t columns) {
  const auto scan = chosen_scan<by_column, divides>();
  if constexpr (by_column) {  // a thread owns columns, in strips whose thresholds stay in the first cache
    constexpr int64_t strip = 1024;
    torch::stable::parallel_for(0, ceil_div(columns, strip), 1, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s) scan(block, lists, 0, rows, s * strip, std::min(columns, (s + 1) * strip));
    });
  } else {
    torch::stable::parallel_for(0, rows, std::max<int64_t>(1, 65536 / columns), [&](int64_t begin, int64_t end) {
      scan(block, lists, begin, end, 0, columns);
    });
  }
}

bool is_vector(const Tensor& x, int64_t size, ScalarType type) {
  return x.dim() == 1 && x.size(0) == size && x.scalar_type() == type && x.is_contiguous();
}

void scan_scores(Tensor block, Tensor add_rows, Tensor add_columns, Tensor divide_rows, Tensor divide_columns,
                 bool by_column, int64_t first, int64_t k, Tensor slack, Tensor scores, Tensor indices, Tensor counts,
                 Tensor thresholds) {
  STD_TORCH_CHECK(block.dim() == 2 && block.scalar_type() == ScalarType::Float, "scan_scores: block must be 2-d float32");
  const int64_t rows = block.size(0), columns = block.size(1), lists = by_column ? columns : rows;
  STD_TORCH_CHECK(rows > 0 && columns > 0 && (columns == 1 || block.stride(1) == 1),
                  "scan_scores: block must have rows, each contiguous");
  STD_TORCH_CHECK(is_vector(add_rows, rows, ScalarType::Float) && is_vector(add_columns, columns, ScalarType::Float),
                  "scan_scores: add_rows and add_columns must be float32, as long as the block");
  const bool divides = divide_rows.size(0) > 0;
  STD_TORCH_CHECK(!divides || (is_vector(divide_rows, rows, ScalarType::Float) &&
                               is_vector(divide_columns, columns, ScalarType::Float)),
                  "scan_scores: divide_rows and divide_columns must be float32, as long as the block, or empty");
  STD_TORCH_CHECK(scores.dim() == 2 && scores.size(0) == lists && scores.size(1) > k && k > 0 &&
                      scores.scalar_type() == ScalarType::Float && scores.is_contiguous(),
                  "scan_scores: scores must be (lists, capacity) float32 with a capacity above k");
  STD_TORCH_CHECK(indices.dim() == 2 && indices.size(0) == lists && indices.size(1) == scores.size(1) &&
                      indices.scalar_type() == ScalarType::Int && indices.is_contiguous(),
                  "scan_scores: indices must be int32 of the shape of scores");
  STD_TORCH_CHECK(is_vector(slack, lists, ScalarType::Double) && is_vector(counts, lists, ScalarType::Int) &&
                      is_vector(thresholds, lists, ScalarType::Float),
                  "scan_scores: slack, counts and thresholds must be (lists,) float64, int32 and float32");
  STD_TORCH_CHECK(first >= 0 && first + std::max(rows, columns) <= std::numeric_limits<int32_t>::max(),
                  "scan_scores: indices beyond 32 bits");
  const Block values{static_cast<const float*>(block.data_ptr()),          block.stride(0),
                     static_cast<const float*>(add_rows.data_ptr()),       static_cast<const float*>(add_columns.data_ptr()),
                     static_cast<const float*>(divide_rows.data_ptr()),    static_cast<const float*>(divide_columns.data_ptr())};
  const Lists kept{static_cast<float*>(scores.data_ptr()),      static_cast<int32_t*>(indices.data_ptr()),
                   static_cast<int32_t*>(counts.data_ptr()),    static_cast<float*>(thresholds.data_ptr()),
                   static_cast<const double*>(slack.data_ptr()), scores.size(1), k, first};
  if (by_column) {
    divides ? scan_all<true, true>(values, kept, rows, columns) : scan_all<true, false>(values, kept, rows, columns);
  } else {
    divides ? scan_all<false, true>(values, kept, rows, columns) : scan_all<false, false>(values, kept, rows, columns);
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(xbridge, CPU, m) { m.impl("scan_scores", TORCH_BOX(&scan_scores)); }

}  // namespace xbridge
