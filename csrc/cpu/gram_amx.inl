// Rows as strips of bfloat16, and tiles of their inner products. Included after amx_kernels.inl and gram_finish.inl.

// 32 entries of a row as two vectors: entries 2k and 2k + 1 of 16-bit rows, k and 16 + k of float32 rows. Which entries
// share a 32-bit word does not matter to an inner product, as long as both operands agree.
struct Pair {
  Vec first, second;
};

[[gnu::always_inline]] inline Vec widen_half(const Word& bits) {
  const Word magnitude = (bits & 0x7fffu) << 13, sign = (bits & 0x8000u) << 16;
  // a subnormal number m 2^-24 is (0.5 + m 2^-24) - 0.5; otherwise only the exponent's bias changes (infinity: once
  // more)
  const Vec subnormal = (Vec)((magnitude >> 13) | 0x3f000000u) - 0.5f;
  const Word rebiased = magnitude + (magnitude >= 0x0f800000u ? Word{} + 0x70000000u : Word{} + 0x38000000u);
  return (Vec)((magnitude < 0x00800000u ? (Word)subnormal : rebiased) | sign);
}

[[gnu::always_inline]] inline Pair read_pair(const float* x) {
  Pair pair;
  __builtin_memcpy(&pair, x, sizeof pair);
  return pair;
}

[[gnu::always_inline]] inline Pair read_pair(const Bfloat16Bits* x) {
  Word words;
  __builtin_memcpy(&words, x, sizeof words);
  return {(Vec)(words << 16), (Vec)(words & 0xffff0000u)};
}

[[gnu::always_inline]] inline Pair read_pair(const Float16Bits* x) {
  Word words;
  __builtin_memcpy(&words, x, sizeof words);
  return {widen_half(words & 0xffffu), widen_half(words >> 16)};
}

// A block of one row, shifted and scaled; zero beyond the last entry.
template <typename T>
[[gnu::always_inline]] inline Pair read_block(const Source& source, int64_t row, int64_t block) {
  const T* x = static_cast<const T*>(source.data) + row * source.stride + block * block_entries;
  const int64_t present = source.dim - block * block_entries;
  const Pair origin = read_pair(source.origin + block * block_entries);
  Pair pair;
  if (present >= block_entries) {
    pair = read_pair(x);
  } else {
    T padded[block_entries] = {};
    for (int64_t k = 0; k < present; ++k) padded[k] = x[k];
    pair = read_pair(padded);
  }
  return {(pair.first - origin.first) * source.unit, (pair.second - origin.second) * source.unit};
}

// The nearest bfloat16, ties to even, in the upper half of a word; NaN stays NaN.
[[gnu::always_inline]] inline Word nearest_bfloat16(const Vec& x) {
  const Word bits = (Word)x;
  const Word rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  return (bits & 0x7fffffffu) > 0x7f800000u ? (bits | 0x00400000u) & 0xffff0000u : rounded;
}

[[gnu::always_inline]] inline Word in_one_word(const Word& first, const Word& second) { return (first >> 16) | second; }

// flags[block] = 1 where bfloat16 does not hold an entry of the block exactly, in any row.
template <typename T>
void find_inexact_as(const Source& source, int64_t first, int64_t count, uint8_t* flags) {
  for (int64_t block = 0; block < source.num_blocks; ++block) {
    Word lost = {};
    for (int64_t row = first; row < first + count; ++row) {
      const Pair x = read_block<T>(source, row, block);
      lost |= ((Word)x.first | (Word)x.second) & 0xffffu;
    }
    uint32_t any = 0;
    for (int lane = 0; lane < lanes; ++lane) any |= lost[lane];
    if (any != 0) flags[block] = 1;
  }
}

void find_inexact(const Source& source, int64_t first, int64_t count, uint8_t* flags) {
  switch (source.type) {
    case ScalarType::Half:
      return find_inexact_as<Float16Bits>(source, first, count, flags);
    case ScalarType::BFloat16:
      return find_inexact_as<Bfloat16Bits>(source, first, count, flags);
    default:
      return find_inexact_as<float>(source, first, count, flags);
  }
}

// Rows as strips, the rest of the last strip zero. x = high + low, both bfloat16; the low parts of a block, where it
// has them, follow all high ones. `transposed`: as right operands.
template <typename T>
void pack_as(const Source& source, int64_t first, int64_t count, bool transposed, uint32_t* out) {
  for (int64_t start = 0; start < count; start += strip_rows, out += source.strip_blocks * block_words) {
    for (int64_t block = 0; block < source.num_blocks; ++block) {
      const int32_t low_block = source.low_blocks[block];
      for (int64_t half = 0; half < 2; ++half) {
        Word high[tile_rows], low[tile_rows];
        for (int row = 0; row < tile_rows; ++row) {
          const int64_t i = start + half * tile_rows + row;
          high[row] = low[row] = Word{};
          if (i >= count) continue;
          const Pair x = read_block<T>(source, first + i, block);
          const Word high_first = nearest_bfloat16(x.first), high_second = nearest_bfloat16(x.second);
          high[row] = in_one_word(high_first, high_second);
          if (low_block >= 0) {
            low[row] =
                in_one_word(nearest_bfloat16(x.first - (Vec)high_first), nearest_bfloat16(x.second - (Vec)high_second));
          }
        }
        if (transposed) transpose(high);
        write_tile(high, out + block * block_words + half * tile_words);
        if (low_block < 0) continue;
        if (transposed) transpose(low);
        write_tile(low, out + low_block * block_words + half * tile_words);
      }
    }
  }
}

void pack(const Source& source, int64_t first, int64_t count, bool transposed, uint32_t* out) {
  switch (source.type) {
    case ScalarType::Half:
      return pack_as<Float16Bits>(source, first, count, transposed, out);
    case ScalarType::BFloat16:
      return pack_as<Bfloat16Bits>(source, first, count, transposed, out);
    default:
      return pack_as<float>(source, first, count, transposed, out);
  }
}

// |x_i|^2 and x_i . offset of one strip. The former by the very additions of inner_products, so that the distance of
// equal rows is exactly zero; but with the low parts' own squares, which pairs of different rows lose as well as not.
void measure(const Source& source, const Step* steps, int64_t num_steps, const uint32_t* left, const uint32_t* right,
             bool low_multiplied, const float* offset, double* lengths, double* lifts) {
  alignas(64) float c[strip_rows * strip_rows];
  multiply_strips<false>(left, right, steps, num_steps, c, strip_rows);
  for (int64_t row = 0; row < strip_rows; ++row) {
    const uint32_t* words = left + row * tile_rows;
    double lost = 0, lift = 0;
    for (int64_t block = 0; block < source.num_blocks; ++block) {
      const Word high = *reinterpret_cast<const Word*>(words + block * block_words);
      Word low = {};
      if (source.low_blocks[block] >= 0)
        low = *reinterpret_cast<const Word*>(words + source.low_blocks[block] * block_words);
      const Vec low_first = (Vec)(low << 16), low_second = (Vec)(low & 0xffff0000u);
      if (!low_multiplied) lost += sum_of(low_first * low_first + low_second * low_second);
      if (offset != nullptr) {
        const Pair by = read_pair(offset + block * block_entries);
        lift +=
            sum_of(((Vec)(high << 16) + low_first) * by.first + ((Vec)(high & 0xffff0000u) + low_second) * by.second);
      }
    }
    lengths[row] = c[row * strip_rows + row] + lost;
    lifts[row] = lift;
  }
}

// x_i . x_j of a tile; in a tile on the diagonal, 32 x 32 blocks below it are left as they are.
void inner_products(const Source& source, const Step* steps, int64_t num_steps, const uint32_t* left,
                    const uint32_t* right, const Tile& tile, float* c) {
  const int64_t strip_words = source.strip_blocks * block_words;
  for (int64_t col = 0; col < tile.cols; col += strip_rows) {
    const int64_t last = tile.diagonal && col + strip_rows < tile.rows ? col + strip_rows : tile.rows;
    for (int64_t row = 0; row < last; row += strip_rows) {
      multiply_strips<false>(left + row / strip_rows * strip_words, right + col / strip_rows * strip_words, steps,
                             num_steps, c + row * tile.side + col, tile.side);
    }
  }
}

constexpr GramKernels kernels = {configure, release,        find_inexact, pack,
                                 measure,   inner_products, finish,       layer_products};
