#include <lora/kernels/panel_tiles.hpp>

#include <support/kernel_tables.hpp>
#include <support/product_reference.hpp>

#if defined(__unix__)
#include <support/page_end.hpp>
#endif

namespace panel_tiles_test {
using namespace lora_test;
using kernels::slab_columns;

template <class Table>
class PanelTiles : public KernelTest<Table> {};
TYPED_TEST_SUITE(PanelTiles, KernelTables);

// panels() against multiply() panel by panel: the same chains, so the same bits.
TYPED_TEST(PanelTiles, MakeTheChainsOfTiles) {
  using S = typename TypeParam::Scalar;
  for (const Index rows : {1, 7, 8, 16, 17, 37}) {
    for (const Index cols : {16, 32, 48}) {
      for (const Index panels : {1, 3}) {
        const Index w_panel = rows * slab_columns + 5;
        const Operand<S> w(1, (panels - 1) * w_panel + rows * slab_columns, "w"),
            b(panels * slab_columns, slab_columns, "b");
        for (const bool add : {false, true}) {
          Guarded<S> c(rows, slab_columns, 0, 5), expected(rows, slab_columns, 0, 5);
          for (Index i = 0; i < rows; ++i) {
            for (Index j = 0; j < slab_columns; ++j)
              c.at(i, j) = expected.at(i, j) = S(static_cast<double>(i - j) / 3);
          }
          for (Index q = 0; q < panels; ++q) {
            TypeParam::with.multiply({rows,
                                      cols,
                                      {slab_columns, w.view.data + q * w_panel, slab_columns, 1,
                                       b.view.data + q * slab_columns * slab_columns, slab_columns},
                                      expected.data(),
                                      slab_columns,
                                      add || q > 0});
          }
          TypeParam::with.panels(
              {rows, cols, panels, w.view.data, w_panel, b.view.data, c.data(), add});
          ASSERT_TRUE(c.same_bits(expected)) << rows << " " << cols << " " << panels;
          ASSERT_TRUE(c.untouched());
        }
      }
    }
  }
}

#if defined(__unix__)
// Nothing is read past the last row of W and the last column of B, or written past those of C.
TYPED_TEST(PanelTiles, TouchNothingPastTheEnds) {
  using S = typename TypeParam::Scalar;
  for (const Index rows : {1, 3, 8, 13, 16}) {
    for (const Index cols : {16, 32, 48}) {
      const AtPageEnd<S> w(rows * slab_columns), b((slab_columns - 1) * slab_columns + cols),
          c((rows - 1) * slab_columns + cols);
      TypeParam::with.panels(
          {rows, cols, 1, w.data, rows * slab_columns, b.data, c.data, rows % 2 == 0});
    }
  }
}
#endif

}  // namespace panel_tiles_test
