// Tiles of the processor. In assembly because GCC's own intrinsics do not tell the compiler that a load reads memory:
// it might move the stores that fill an operand below it.

struct Tiles {
  [[gnu::always_inline]] static void configure() {
    alignas(64) uint8_t shape[64] = {1};  // palette 1: eight tiles of up to 16 rows of 64 bytes
    for (int tile = 0; tile < 8; ++tile) {
      shape[16 + 2 * tile] = 64;
      shape[48 + tile] = 16;
    }
    asm volatile("ldtilecfg %0" : : "m"(shape));
  }

  [[gnu::always_inline]] static void release() { asm volatile("tilerelease"); }

  template <int tile>
  [[gnu::always_inline]] void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(tile));
  }

  template <int tile>
  [[gnu::always_inline]] void load(const void* from, int64_t stride_bytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride_bytes), "i"(tile) : "memory");
  }

  template <int tile>
  [[gnu::always_inline]] void store(void* to, int64_t stride_bytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride_bytes), "i"(tile) : "memory");
  }

  template <int sum, int left, int right>
  [[gnu::always_inline]] void multiply_add() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sum), "i"(left), "i"(right));
  }
};
