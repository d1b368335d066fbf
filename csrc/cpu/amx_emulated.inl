// Tiles in memory, with the arithmetic that Intel's manual gives for TDPBF16PS: even and odd entries are summed apart,
// in order, in float32 rounded to nearest; subnormal numbers count as zero, going in and coming out.
// A product of two bfloat16 is exact in float32, so that adding it in two instructions rounds as a fused one does.

[[gnu::always_inline]] inline Vec without_subnormals(const Vec& x) {
  const float smallest_normal = 1.17549435e-38f;
  return x < smallest_normal && x > -smallest_normal ? Vec{} : x;
}

// In rolled loops: unrolled, they take the compiler minutes.
[[gnu::noinline]] void multiply_add_emulated(Word* sum, const Word* left, const Word* right) {
  Vec b[tile_rows][2];
#pragma GCC unroll 1
  for (int k = 0; k < tile_rows; ++k) {
    b[k][0] = without_subnormals((Vec)(right[k] << 16));
    b[k][1] = without_subnormals((Vec)(right[k] & 0xffff0000u));
  }
#pragma GCC unroll 1
  for (int row = 0; row < tile_rows; ++row) {
    alignas(64) float even[lanes], odd[lanes];
    *reinterpret_cast<Vec*>(even) = without_subnormals((Vec)(left[row] << 16));
    *reinterpret_cast<Vec*>(odd) = without_subnormals((Vec)(left[row] & 0xffff0000u));
    Vec even_sum = {}, odd_sum = {};
#pragma GCC unroll 1
    for (int k = 0; k < tile_rows; ++k) {
      even_sum = without_subnormals(even_sum + even[k] * b[k][0]);
      odd_sum = without_subnormals(odd_sum + odd[k] * b[k][1]);
    }
    const Vec both = without_subnormals(even_sum + odd_sum);
    sum[row] = (Word)without_subnormals(without_subnormals((Vec)sum[row]) + both);
  }
}

struct Tiles {
  alignas(64) Word rows[8][tile_rows];

  static void configure() {}

  static void release() {}

  template <int tile>
  void zero() {
    for (int row = 0; row < tile_rows; ++row) rows[tile][row] = Word{};
  }

  template <int tile>
  void load(const void* from, int64_t stride_bytes) {
    for (int row = 0; row < tile_rows; ++row) {
      __builtin_memcpy(&rows[tile][row], static_cast<const char*>(from) + row * stride_bytes, sizeof(Word));
    }
  }

  template <int tile>
  void store(void* to, int64_t stride_bytes) {
    for (int row = 0; row < tile_rows; ++row) {
      __builtin_memcpy(static_cast<char*>(to) + row * stride_bytes, &rows[tile][row], sizeof(Word));
    }
  }

  template <int sum, int left, int right>
  void multiply_add() {
    multiply_add_emulated(rows[sum], rows[left], rows[right]);
  }
};
