// Element types: which numbers do not fit. Names, widths and conversion are tested with safetensors.
#include <lora/io/dtype.hpp>

#include <gtest/gtest.h>

#include <vector>

namespace {
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

}  // namespace
