// Element types: which numbers do not fit. Names, widths and conversion are tested with
// safetensors.
#include <lora/io/dtype.hpp>

#include <gtest/gtest.h>

#include <vector>

namespace dtype_test {
using lora::DType;

template <class S>
bool becomes_infinite(DType dtype, S x) {
  std::vector<std::byte> bytes(8);
  lora::encode_elements<S>(dtype, std::span<const S>(&x, 1), bytes.data());
  double back;
  lora::decode_elements<double>(dtype, bytes.data(), std::span<double>(&back, 1));
  return std::isinf(back) && std::isfinite(x);
}

template <class S>
void expect_as_encoded(DType dtype, std::initializer_list<double> around) {
  SCOPED_TRACE(lora::dtype_name(dtype));
  for (const double limit : around) {
    const S at = static_cast<S>(limit);
    for (S x : {at, std::nextafter(at, S(0)), std::nextafter(at, static_cast<S>(2 * limit))}) {
      for (const S signed_x : {x, -x}) {
        const std::vector<S> values = {S(1), S(0), signed_x, signed_x};
        const auto found = lora::first_overflow<S>(dtype, values);
        EXPECT_EQ(found.has_value(), becomes_infinite(dtype, signed_x)) << signed_x;
        EXPECT_EQ(found.value_or(2), 2u);
      }
    }
  }
}

TEST(FirstOverflow, SaysWhatEncodingDoes) {
  const std::initializer_list<double> limits = {65504, 65520, 65536, 0x1.FEp127, 0x1.FFp127};
  for (const DType dtype : {DType::F16, DType::BF16, DType::F32, DType::F64}) {
    expect_as_encoded<float>(dtype, limits);
    expect_as_encoded<double>(dtype, limits);
    expect_as_encoded<double>(dtype, {0x1.FFFFFEp127, 0x1.FFFFFFp127, 0x1p128, 1e300});
  }
}

TEST(FirstOverflow, InfinitiesAndNaNsAreWhatTheyWere) {
  const std::vector<double> values = {HUGE_VAL, -HUGE_VAL, std::nan("")};
  EXPECT_FALSE(lora::first_overflow<double>(DType::F16, values));
  EXPECT_FALSE(lora::first_overflow<double>(DType::F16, {}));
}

TEST(FirstOverflowOfRead, IsOfDoublesReadIntoFloatsAlone) {
  const std::vector<double> values = {1, -HUGE_VAL, std::nan(""), 3.4e38, -3.5e38, 1e300};
  std::vector<std::byte> bytes(values.size() * 8 + 1);  // at any address
  lora::encode_elements<double>(DType::F64, values, bytes.data() + 1);
  const auto found = lora::first_overflow_of_read<float>(DType::F64, bytes.data() + 1, 6);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->index, 4u);
  EXPECT_EQ(found->value, -3.5e38);
  EXPECT_EQ(lora::overflow_text(*found),
            "element 4 is -3.5e+38, too large for F32, which the model computes in");
  EXPECT_FALSE(lora::first_overflow_of_read<float>(DType::F64, bytes.data() + 1, 4));
  EXPECT_FALSE(lora::first_overflow_of_read<double>(DType::F64, bytes.data() + 1, 6));
  EXPECT_FALSE(lora::first_overflow_of_read<float>(DType::F32, bytes.data() + 1, 6));
}

TEST(SameWhenRounded, ComparesInTheNarrowerType) {
  const auto same = lora::same_when_rounded;
  const double third = 1.0 / 3, single = 1.0f / 3.0f, brain = 0x1.56p-2, half = 0x1.554p-2;
  const std::pair<double, DType> thirds[] = {
      {third, DType::F64}, {single, DType::F32}, {half, DType::F16}, {brain, DType::BF16}};
  for (const auto& [x, x_type] : thirds) {
    for (const auto& [y, y_type] : thirds) {
      EXPECT_TRUE(same(x, x_type, y, y_type)) << x << " " << y;
      EXPECT_EQ(same(1.01 * x, x_type, y, y_type), false) << x << " " << y;
    }
  }
  EXPECT_FALSE(same(single, DType::F32, std::nextafter(1.0f / 3.0f, 1.0f), DType::F32));
  // Halfway between two bfloat16 a number was rounded before, or was not: up and down are right.
  EXPECT_TRUE(same(0x1.01p0, DType::F16, 1, DType::BF16));
  EXPECT_TRUE(same(0x1.01p0, DType::F16, 0x1.02p0, DType::BF16));
  EXPECT_FALSE(same(0x1.01p0, DType::F16, 0x1.04p0, DType::BF16));
  EXPECT_TRUE(same(-0.0, DType::F32, 0, DType::BF16));
  EXPECT_FALSE(same(std::nan(""), DType::F32, std::nan(""), DType::F32));
}

}  // namespace dtype_test
