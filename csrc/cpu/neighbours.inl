// The scan of a block, for one instruction set; included by neighbours.cpp, which opens the namespace and the target
// and defines LANES. 64 scores are compared at a time; only a group with a score above its threshold is looked into.

typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Mask __attribute__((vector_size(4 * LANES)));

inline bool is_set(const Mask& mask) {
  typedef int64_t Words __attribute__((vector_size(4 * LANES)));
  const Words words = reinterpret_cast<Words>(mask);
  int64_t any = 0;
  for (int word = 0; word < LANES / 2; ++word) any |= words[word];
  return any != 0;
}

template <bool by_column, bool divides>
void scan(const Block& block, const Lists& lists, int64_t row_begin, int64_t row_end, int64_t column_begin,
          int64_t column_end) {
  constexpr int64_t group = 64;
  const float *add_columns = block.add_columns, *divide_columns = block.divide_columns, *thresholds = lists.thresholds;
  for (int64_t i = row_begin; i < row_end; ++i) {
    const float* values = block.values + i * block.stride;
    const float add = block.add_rows[i], divisor = divides ? block.divide_rows[i] : 1.0f;
    const auto scores_at = [&](int64_t at, Vec& scores) {  // by reference: wide vectors are not returned in registers
      scores = *reinterpret_cast<const Vec*>(values + at) + *reinterpret_cast<const Vec*>(add_columns + at) + add;
      if constexpr (divides) scores /= *reinterpret_cast<const Vec*>(divide_columns + at) + divisor;
    };
    const auto above_at = [&](int64_t at, const Vec& scores, Mask& above) {
      if constexpr (by_column) {
        above = scores > *reinterpret_cast<const Vec*>(thresholds + at);
      } else {
        above = scores > thresholds[i];
      }
    };
    Vec scores;
    Mask above;
    int64_t j = column_begin;
    for (; j + group <= column_end; j += group) {
      Mask any = {};
      for (int64_t at = j; at < j + group; at += LANES) {
        scores_at(at, scores);
        above_at(at, scores, above);
        any |= above;
      }
      if (!is_set(any)) continue;
      for (int64_t at = j; at < j + group; at += LANES) {
        scores_at(at, scores);
        above_at(at, scores, above);
        if (!is_set(above)) continue;
        for (int64_t t = 0; t < LANES; ++t) {
          if (above[t]) offer(lists, by_column ? at + t : i, scores[t], by_column ? i : at + t);
        }
      }
    }
    for (; j < column_end; ++j) {
      float score = values[j] + add_columns[j] + add;
      if constexpr (divides) score /= divide_columns[j] + divisor;
      offer(lists, by_column ? j : i, score, by_column ? i : j);
    }
  }
}
