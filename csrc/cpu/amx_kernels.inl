// What every AMX kernel does with strips. Included once for the processor's tiles and once for emulated ones, after
// amx_vectors.inl and one definition of `Tiles`; includes nothing, so that no function of a header is compiled for an
// instruction set that the processor may lack.

constexpr int64_t tile_stride = 4 * tile_rows;  // bytes from row to row of a packed tile

void configure() { Tiles::configure(); }

void release() { Tiles::release(); }

// c (32, 32) = or += the blocks of two strips, multiplied as `steps` says; `stride` floats from row to row of c.
template <bool add>
[[gnu::noinline]] void multiply_strips(const uint32_t* left, const uint32_t* right, const Step* steps,
                                       int64_t num_steps, float* c, int64_t stride) {
  Tiles tiles;
  const int64_t stride_bytes = 4 * stride;
  float* const lower = c + tile_rows * stride;
  if constexpr (add) {
    tiles.template load<0>(c, stride_bytes);
    tiles.template load<1>(c + tile_rows, stride_bytes);
    tiles.template load<2>(lower, stride_bytes);
    tiles.template load<3>(lower + tile_rows, stride_bytes);
  } else {
    tiles.template zero<0>();
    tiles.template zero<1>();
    tiles.template zero<2>();
    tiles.template zero<3>();
  }
  for (int64_t s = 0; s < num_steps; ++s) {
    const uint32_t* a = left + steps[s].left * block_words;
    const uint32_t* b = right + steps[s].right * block_words;
    tiles.template load<4>(a, tile_stride);
    tiles.template load<6>(b, tile_stride);
    tiles.template load<7>(b + tile_words, tile_stride);
    tiles.template load<5>(a + tile_words, tile_stride);
    tiles.template multiply_add<0, 4, 6>();
    tiles.template multiply_add<1, 4, 7>();
    tiles.template multiply_add<2, 5, 6>();
    tiles.template multiply_add<3, 5, 7>();
  }
  tiles.template store<0>(c, stride_bytes);
  tiles.template store<1>(c + tile_rows, stride_bytes);
  tiles.template store<2>(lower, stride_bytes);
  tiles.template store<3>(lower + tile_rows, stride_bytes);
}

// Lanes whose number has bit `bit` clear from a, the others from b, `bit` lanes further down.
template <int bit>
[[gnu::always_inline]] inline Word even_blocks(const Word& a, const Word& b) {
#define LANE(i) ((i) & bit ? 16 + (i) - bit : (i))
  return __builtin_shufflevector(a, b, LANE(0), LANE(1), LANE(2), LANE(3), LANE(4), LANE(5), LANE(6), LANE(7), LANE(8),
                                 LANE(9), LANE(10), LANE(11), LANE(12), LANE(13), LANE(14), LANE(15));
#undef LANE
}

template <int bit>
[[gnu::always_inline]] inline Word odd_blocks(const Word& a, const Word& b) {
#define LANE(i) ((i) & bit ? 16 + (i) : (i) + bit)
  return __builtin_shufflevector(a, b, LANE(0), LANE(1), LANE(2), LANE(3), LANE(4), LANE(5), LANE(6), LANE(7), LANE(8),
                                 LANE(9), LANE(10), LANE(11), LANE(12), LANE(13), LANE(14), LANE(15));
#undef LANE
}

template <int bit>
[[gnu::always_inline]] inline void exchange(Word (&rows)[tile_rows]) {
  for (int row = 0; row < tile_rows; ++row) {
    if (row & bit) continue;
    const Word a = rows[row], b = rows[row + bit];
    rows[row] = even_blocks<bit>(a, b);
    rows[row + bit] = odd_blocks<bit>(a, b);
  }
}

[[gnu::always_inline]] inline void transpose(Word (&rows)[tile_rows]) {
  exchange<8>(rows);
  exchange<4>(rows);
  exchange<2>(rows);
  exchange<1>(rows);
}

[[gnu::always_inline]] inline void write_tile(const Word (&rows)[tile_rows], uint32_t* to) {
  for (int row = 0; row < tile_rows; ++row) *reinterpret_cast<Word*>(to + row * tile_rows) = rows[row];
}
