// Products of rows for the scan. Included after panels.inl, once per instruction set; includes nothing.

// All entries of `count` rows, panel after panel, each with room for `strip` rows.
template <int width, int64_t strip>
void pack_rows(const Rows& rows, int64_t first, int64_t count, float* out) {
  for (int64_t k0 = 0; k0 < rows.dim; k0 += panel_depth) {
    pack<width>(rows, first, count, k0, rows.dim - k0 < panel_depth ? rows.dim - k0 : panel_depth, out + k0 * strip);
  }
}

void pack_left(const Rows& rows, int64_t first, int64_t count, float* out) {
  pack_rows<block_rows, strip_rows>(rows, first, count, out);
}

void pack_right(const Rows& rows, int64_t first, int64_t count, float* out) {
  pack_rows<block_cols, strip_columns>(rows, first, count, out);
}

void multiply(const float* left, const float* right, int64_t dim, int64_t rows, int64_t columns, float* c) {
  for (int64_t k0 = 0; k0 < dim; k0 += panel_depth) {
    const int64_t depth = dim - k0 < panel_depth ? (dim - k0 + 3) / 4 * 4 : panel_depth;
    multiply_panels(left + k0 * strip_rows, right + k0 * strip_columns, depth, rows, columns, false, k0 > 0, c, strip_columns);
  }
}

constexpr PanelKernels kernels = {pack_left, pack_right, multiply};
