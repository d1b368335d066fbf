// Tiles in memory, with the arithmetic that Intel's manual gives for TDPBF16PS: even and odd entries are summed apart,
// in order, in float32 rounded to nearest; subnormal numbers count as zero, going in and coming out.
// A product of two bfloat16 is exact in float32, so that adding it in two instructions rounds as a fused one does.

[[gnu::always_inline]] inline Vec without_subnormals(const Vec& x) {
  const float smallest_normal = 1.17549435e-38f;
  return x < smallest_normal && x > -smallest_normal ? Vec{} : x;
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
    Vec b[tile_rows][2];
    for (int k = 0; k < tile_rows; ++k) {
      b[k][0] = without_subnormals((Vec)(rows[right][k] << 16));
      b[k][1] = without_subnormals((Vec)(rows[right][k] & 0xffff0000u));
    }
    for (int row = 0; row < tile_rows; ++row) {
      const Vec a[2] = {without_subnormals((Vec)(rows[left][row] << 16)), without_subnormals((Vec)(rows[left][row] & 0xffff0000u))};
      Vec sums[2] = {};
      for (int k = 0; k < tile_rows; ++k) {
        for (int parity = 0; parity < 2; ++parity) {
          sums[parity] = without_subnormals(sums[parity] + a[parity][k] * b[k][parity]);
        }
      }
      const Vec both = without_subnormals(sums[0] + sums[1]);
      rows[sum][row] = (Word)without_subnormals(without_subnormals((Vec)rows[sum][row]) + both);
    }
  }
};
