// Sums of products of kernel matrices, rows of one of them permuted. Included once per instruction set, inside a
// namespace that defines `lanes` and `max_vectors`; includes nothing.

typedef float Vec __attribute__((vector_size(4 * lanes), may_alias));
typedef double DoubleVec __attribute__((vector_size(8 * lanes), may_alias, aligned(8)));

// totals[a][b] += sum over j < count of left[a][j] right[order[j]][b], for `rows` layers on the left. right: entries of
// `vectors` * lanes layers side by side. `chains` sums run side by side where there are too few to hide an addition's delay.
template <int rows, int vectors>
void add_products(const float* const* left, const float* right, const int32_t* order, int64_t count, double* totals) {
  constexpr int chains = rows * vectors >= 8 ? 1 : rows * vectors >= 4 ? 2 : 4, width = vectors * lanes;
  for (int64_t start = 0; start < count; start += run_length) {
    const int64_t end = count - start < run_length ? count : start + run_length;
    Vec sums[chains][rows][vectors] = {};
    int64_t j = start;
    for (; j + chains <= end; j += chains) {
      for (int chain = 0; chain < chains; ++chain) {
        const Vec* entry = reinterpret_cast<const Vec*>(right + static_cast<int64_t>(order[j + chain]) * width);
        for (int a = 0; a < rows; ++a) {
          for (int v = 0; v < vectors; ++v) sums[chain][a][v] += left[a][j + chain] * entry[v];
        }
      }
    }
    for (; j < end; ++j) {
      const Vec* entry = reinterpret_cast<const Vec*>(right + static_cast<int64_t>(order[j]) * width);
      for (int a = 0; a < rows; ++a) {
        for (int v = 0; v < vectors; ++v) sums[0][a][v] += left[a][j] * entry[v];
      }
    }
    for (int a = 0; a < rows; ++a) {
      for (int v = 0; v < vectors; ++v) {
        DoubleVec* to = reinterpret_cast<DoubleVec*>(totals + a * width + v * lanes);
        for (int chain = 0; chain < chains; ++chain) *to += __builtin_convertvector(sums[chain][a][v], DoubleVec);
      }
    }
  }
}

template <int vectors>
constexpr AddProducts add_products_of[max_rows] = {
    add_products<1, vectors>, add_products<2, vectors>, add_products<3, vectors>,
    add_products<4, vectors>, add_products<5, vectors>, add_products<6, vectors>,
};

constexpr ProductKernels kernels = {lanes, max_vectors, {add_products_of<1>, add_products_of<max_vectors>}};
