// Float32 matrix products on vectors of `lanes` floats: rows are packed into panels, panels multiplied block by block in
// registers. Included once per instruction set, inside a namespace that defines `lanes`, `block_rows` and
// `block_vectors` (the register block); includes nothing, so that no function of a header is compiled for an instruction
// set that the processor may lack.

constexpr int block_cols = block_vectors * lanes;

typedef float Vec __attribute__((vector_size(4 * lanes), may_alias));
typedef float Quad __attribute__((vector_size(16), may_alias));

#if defined(__clang__)
#define XBRIDGE_SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define XBRIDGE_SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, (QuadIndex){i, j, k, l})
typedef int32_t QuadIndex __attribute__((vector_size(16)));
#endif

[[gnu::always_inline]] inline float widen(float x) { return x; }

[[gnu::always_inline]] inline float widen(Bfloat16Bits x) { return __builtin_bit_cast(float, static_cast<uint32_t>(x.bits) << 16); }

[[gnu::always_inline]] inline float widen(Float16Bits x) {
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fff) << 13, sign = static_cast<uint32_t>(x.bits & 0x8000) << 16;
  // a subnormal number m 2^-24 is (0.5 + m 2^-24) - 0.5; otherwise only the exponent's bias changes (infinity: once more)
  const float subnormal = __builtin_bit_cast(float, (magnitude >> 13) | 0x3f000000u) - 0.5f;
  const uint32_t rebiased = magnitude + (magnitude >= 0x0f800000u ? 0x70000000u : 0x38000000u);
  const uint32_t bits = magnitude < 0x00800000u ? __builtin_bit_cast(uint32_t, subnormal) : rebiased;
  return __builtin_bit_cast(float, bits | sign);
}

template <typename T>
void read_row(const T* __restrict__ x, const float* __restrict__ shift, float scale, float* __restrict__ out, int64_t depth) {
  for (int64_t k = 0; k < depth; ++k) out[k] = (widen(x[k]) - shift[k]) * scale;
}

// `width` rows of a buffer to out[k][row]; width >= 4, so that blocks of four cover it, if need be overlapping.
template <int width>
void interleave(const float (&buffer)[width][buffer_stride], int64_t depth, float* out) {
  for (int64_t k = 0; k < depth; k += 4) {
    for (int start = 0; start < width; start += 4) {
      const int row = start + 4 <= width ? start : width - 4;
      const Quad a = *reinterpret_cast<const Quad*>(&buffer[row][k]), b = *reinterpret_cast<const Quad*>(&buffer[row + 1][k]);
      const Quad c = *reinterpret_cast<const Quad*>(&buffer[row + 2][k]), d = *reinterpret_cast<const Quad*>(&buffer[row + 3][k]);
      const Quad ab_low = XBRIDGE_SHUFFLE(a, b, 0, 4, 1, 5), ab_high = XBRIDGE_SHUFFLE(a, b, 2, 6, 3, 7);
      const Quad cd_low = XBRIDGE_SHUFFLE(c, d, 0, 4, 1, 5), cd_high = XBRIDGE_SHUFFLE(c, d, 2, 6, 3, 7);
      const Quad columns[4] = {XBRIDGE_SHUFFLE(ab_low, cd_low, 0, 1, 4, 5), XBRIDGE_SHUFFLE(ab_low, cd_low, 2, 3, 6, 7),
                               XBRIDGE_SHUFFLE(ab_high, cd_high, 0, 1, 4, 5), XBRIDGE_SHUFFLE(ab_high, cd_high, 2, 3, 6, 7)};
      for (int q = 0; q < 4; ++q) __builtin_memcpy(out + (k + q) * width + row, &columns[q], sizeof(Quad));
    }
  }
}

// Entries [k0, k0 + depth) of `count` rows as out[block][k][row of the block]: shifted, scaled, padded with zeros to whole
// blocks of `width` rows and to a multiple of four entries.
template <int width, typename T>
void pack_as(const Rows& rows, int64_t first, int64_t count, int64_t k0, int64_t depth, float* out) {
  alignas(64) float buffer[width][buffer_stride];
  const int64_t padded = (depth + 3) / 4 * 4;
  for (int64_t block = 0; block < count; block += width, out += padded * width) {
    for (int row = 0; row < width; ++row) {
      const int64_t present = block + row < count ? depth : 0;
      const T* x = static_cast<const T*>(rows.data) + (first + block + row) * rows.stride + k0;
      if (present > 0) read_row(x, rows.shift + k0, rows.scale, buffer[row], depth);
      for (int64_t k = present; k < padded; ++k) buffer[row][k] = 0;
    }
    interleave<width>(buffer, padded, out);
  }
}

template <int width>
void pack(const Rows& rows, int64_t first, int64_t count, int64_t k0, int64_t depth, float* out) {
  switch (rows.type) {
    case ScalarType::Half: return pack_as<width, Float16Bits>(rows, first, count, k0, depth, out);
    case ScalarType::BFloat16: return pack_as<width, Bfloat16Bits>(rows, first, count, k0, depth, out);
    default: return pack_as<width, float>(rows, first, count, k0, depth, out);
  }
}

// c = or += a b for one register block; a: [k][block_rows], b: [k][block_cols], `stride` floats from row to row of c.
template <bool add>
[[gnu::always_inline]] inline void multiply_block(const float* __restrict__ a, const float* __restrict__ b, int64_t depth, float* __restrict__ c,
                           int64_t stride) {
  Vec sums[block_rows][block_vectors] = {};
  for (int64_t k = 0; k < depth; ++k, a += block_rows, b += block_cols) {
    Vec right[block_vectors];
    for (int v = 0; v < block_vectors; ++v) right[v] = reinterpret_cast<const Vec*>(b)[v];
    for (int row = 0; row < block_rows; ++row) {
      for (int v = 0; v < block_vectors; ++v) sums[row][v] += a[row] * right[v];
    }
  }
  for (int row = 0; row < block_rows; ++row) {
    Vec* to = reinterpret_cast<Vec*>(c + row * stride);
    for (int v = 0; v < block_vectors; ++v) to[v] = add ? to[v] + sums[row][v] : sums[row][v];
  }
}

// c = or += a b of packed panels, `stride` floats from row to row of c, which has room for whole blocks. With `upper`,
// register blocks below the diagonal are left as they are.
[[gnu::noinline]] void multiply_panels(const float* left, const float* right, int64_t depth, int64_t rows, int64_t cols,
                                       bool upper, bool add, float* c, int64_t stride) {
  for (int64_t col = 0; col < cols; col += block_cols) {
    const int64_t last = upper && col + block_cols < rows ? col + block_cols : rows;
    for (int64_t row = 0; row < last; row += block_rows) {
      const float *a = left + row * depth, *b = right + col * depth;
      float* block = c + row * stride + col;
      add ? multiply_block<true>(a, b, depth, block, stride) : multiply_block<false>(a, b, depth, block, stride);
    }
  }
}

#undef XBRIDGE_SHUFFLE
