// The scan of a block, for one instruction set; included by neighbours.cpp, which opens the namespace and the target
// and defines LANES. 64 scores are compared at a time; only a group with a score above its threshold is looked into.

template <bool by_column, bool divides>
void scan(const Block& block, const Lists& lists, int64_t row_begin, int64_t row_end, int64_t column_begin,
          int64_t column_end) {
  constexpr int group = 64, vectors = group / LANES;
  typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
  typedef int32_t Mask __attribute__((vector_size(4 * LANES)));
  for (int64_t i = row_begin; i < row_end; ++i) {
    const float* values = block.values + i * block.stride;
    const float add = block.add_rows[i], divisor = divides ? block.divide_rows[i] : 1.0f;
    int64_t j = column_begin;
    for (; j + group <= column_end; j += group) {
      const float row_threshold = by_column ? 0.0f : lists.thresholds[i];
      Vec scores[vectors];
      Mask above = {};
      for (int v = 0; v < vectors; ++v) {
        const int64_t at = j + v * LANES;
        Vec score = *reinterpret_cast<const Vec*>(values + at) + *reinterpret_cast<const Vec*>(block.add_columns + at) + add;
        if constexpr (divides) score /= *reinterpret_cast<const Vec*>(block.divide_columns + at) + divisor;
        scores[v] = score;
        if constexpr (by_column) {
          above |= score > *reinterpret_cast<const Vec*>(lists.thresholds + at);
        } else {
          above |= score > row_threshold;
        }
      }
      int any = 0;
      for (int lane = 0; lane < LANES; ++lane) any |= above[lane];
      if (any == 0) continue;
      const float* found = reinterpret_cast<const float*>(scores);
      for (int64_t t = 0; t < group; ++t) offer(lists, by_column ? j + t : i, found[t], by_column ? i : j + t);
    }
    for (; j < column_end; ++j) {
      float score = values[j] + block.add_columns[j] + add;
      if constexpr (divides) score /= block.divide_columns[j] + divisor;
      offer(lists, by_column ? j : i, score, by_column ? i : j);
    }
  }
}
