#include <lora/io/all_finite.hpp>

#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace all_finite_test {
using namespace lora;

TEST(AllFinite, SeesEveryInfinityAndNaNAndNothingElse) {
  const double inf = std::numeric_limits<double>::infinity(),
               nan = std::numeric_limits<double>::quiet_NaN();
  for (const DType dtype : {DType::F16, DType::BF16, DType::F32, DType::F64}) {
    const double largest = dtype == DType::F16    ? 65504
                           : dtype == DType::BF16 ? 0x1.FEp127
                           : dtype == DType::F32  ? 0x1.FFFFFEp127
                                                  : std::numeric_limits<double>::max();
    // Within whole blocks, at their ends, and in what is left over.
    for (const std::size_t count : {1u, 255u, 256u, 257u, 5000u}) {
      for (const std::size_t at : {std::size_t{0}, count / 2, count - 1}) {
        for (const double value : {largest, -largest, 0.0, -0.0, inf, -inf, nan}) {
          std::vector<double> values(count, 1.5);
          values[at] = value;
          std::vector<std::byte> bytes(count * dtype_bits(dtype) / 8 + 1);
          encode_elements(dtype, std::span<const double>(values), bytes.data() + 1);
          EXPECT_EQ(lora::detail::all_finite(dtype, std::span(bytes).subspan(1)),
                    std::isfinite(value))
              << dtype_name(dtype) << " " << count << " " << at << " " << value;
        }
      }
    }
    EXPECT_TRUE(lora::detail::all_finite(dtype, {}));
  }
}

}  // namespace all_finite_test
