#include <lora/kernels/dispatch.hpp>
#include <lora/weights/slab.hpp>

#include <support/product_reference.hpp>

namespace slab_test {
using namespace lora;
using namespace lora_test;

// Whatever B's strides, the slab holds its values and zeros up to a whole group of columns.
TEST(Slab, HoldsTheBlock) {
  const auto with = kernels::product_kernels<float>();
  detail::SlabMemory<float> memory;
  for (const Storage storage : all_storages) {
    for (const Index cols : {1, 15, 16, 17, 32, 47, 48}) {
      for (const Index rows_of_a : {1, 100}) {
        const Operand<float> b(21, cols, "b", storage), same(21, cols, "b");
        const detail::Slab<float> slab = detail::slab_of(with, b.view, rows_of_a, memory);
        for (Index k = 0; k < 21; ++k) {
          for (Index j = 0; j < (cols + 15) / 16 * 16; ++j) {
            const float want = j < cols ? same.view.data[k * cols + j] : 0.0f;
            ASSERT_EQ(slab.data[k * slab.stride + j], want) << k << ", " << j;
          }
        }
      }
    }
  }
}

TEST(Slab, IsReadInPlaceWhereThatIsAsGood) {
  const auto with = kernels::product_kernels<float>();
  detail::SlabMemory<float> memory;
  const auto in_place = [&](Index cols, Index row_stride, Index rows_of_a) {
    const std::vector<float> values(static_cast<std::size_t>(21 * row_stride));
    const View<float> b(values.data(), 21, cols, row_stride, 1);
    return detail::slab_of(with, b, rows_of_a, memory).data == values.data();
  };
  EXPECT_TRUE(in_place(48, 2048, 16));   // at most two tiles pass by
  EXPECT_FALSE(in_place(48, 2048, 17));  // a copy pays
  EXPECT_TRUE(in_place(16, 16, 1000));   // narrow: the rows are beside each other as they are
  EXPECT_FALSE(in_place(17, 17, 1));     // the last group is not whole
}

TEST(Slab, NoDepthMakesZerosUnlessAdded) {
  const auto with = kernels::product_kernels<double>();
  detail::SlabMemory<double> memory;
  Matrix<double> c = Matrix<double>::Constant(3, 5, 7.0);
  const View<double> a(nullptr, 3, 0, 0, 1), b(nullptr, 0, 5, 5, 1);
  detail::multiply_columns(with, a, b, MutableView<double>(c), true, memory);
  EXPECT_EQ(c, Matrix<double>::Constant(3, 5, 7.0));
  detail::multiply_columns(with, a, b, MutableView<double>(c), false, memory);
  EXPECT_EQ(c, Matrix<double>::Zero(3, 5));
}

}  // namespace slab_test
