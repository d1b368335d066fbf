// Vectors of sixteen lanes, as wide as a row of a tile, lowered to whatever the processor has.

constexpr int lanes = 16;

typedef float Vec __attribute__((vector_size(4 * lanes), may_alias));
typedef int32_t IntVec __attribute__((vector_size(4 * lanes), may_alias));
typedef uint32_t Word __attribute__((vector_size(4 * lanes), may_alias));

[[gnu::always_inline]] inline double sum_of(const Vec& x) {
  double total = 0;
  for (int lane = 0; lane < lanes; ++lane) total += x[lane];
  return total;
}
