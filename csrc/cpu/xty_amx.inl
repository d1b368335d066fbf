// Columns of row-major matrices as strips: entries are rows of the matrix, two to a word. Included after
// amx_kernels.inl.

typedef uint16_t HalfWord __attribute__((vector_size(2 * lanes), may_alias));

// Sixteen columns of a row, one to a word.
[[gnu::always_inline]] inline Word read_columns(const uint16_t* x, int64_t present) {
  HalfWord values = {};
  if (present >= lanes) {
    __builtin_memcpy(&values, x, sizeof values);
  } else if (present > 0) {
    uint16_t padded[lanes] = {};
    for (int64_t j = 0; j < present; ++j) padded[j] = x[j];
    __builtin_memcpy(&values, padded, sizeof values);
  }
  return __builtin_convertvector(values, Word);
}

// 32 columns, of which `cols` exist, by `rows` rows: ceil(rows / 32) blocks, the rest of the last one zero.
void pack_columns(const uint16_t* x, int64_t stride, int64_t rows, int64_t cols, bool left, uint32_t* out) {
  for (int64_t first = 0; first < rows; first += block_entries, out += block_words) {
    for (int64_t half = 0; half < 2; ++half) {
      const int64_t present = cols - half * tile_rows;
      Word words[tile_rows];
      for (int pair = 0; pair < tile_rows; ++pair) {
        const int64_t row = first + 2 * pair;
        const uint16_t* from = x + row * stride + half * tile_rows;
        words[pair] = Word{};
        if (row < rows) words[pair] = read_columns(from, present);
        if (row + 1 < rows) words[pair] |= read_columns(from + stride, present) << 16;
      }
      if (left) transpose(words);
      write_tile(words, out + half * tile_words);
    }
  }
}

constexpr XtyKernels kernels = {configure, release, pack_columns, multiply_strips<true>};
