#include <lora/io/hf/tensor_merge.hpp>

#include <gtest/gtest.h>

#include "io/peft_folder.hpp"
#include "support/gradcheck.hpp"

namespace tensor_merge_test {
using namespace lora;
using namespace lora_test;

/// W (5, 3) in a file of this type, and a DoRA adapter of rank 2 for it.
struct Parts {
  TemporaryFolder folder;
  SafetensorsFile file;
  Matrix<double> W, A, B, m;

  Parts(DType dtype, bool turned) : file(make(dtype, turned)) {
    W = file.matrix<double>("W");
    if (turned) W.transposeInPlace();
    A = file.matrix<double>("A");
    B = file.matrix<double>("B");
    m = file.matrix<double>("m");
  }
  SafetensorsFile make(DType dtype, bool turned) {
    SafetensorsWriter writer;
    const Matrix<float> weight = random_matrix<float>(700, 600, "W");
    writer.add("W", turned ? Matrix<float>(weight.transpose()) : weight, dtype);
    writer.add("A", random_matrix<float>(2, 600, "A"), DType::F32);
    writer.add("B", random_matrix<float>(700, 2, "B"), DType::BF16);
    writer.add("m", random_matrix<float>(1, 700, "m"), DType::F32, {700});
    writer.write(folder.path / "x.safetensors");
    return SafetensorsFile::open(folder.path / "x.safetensors");
  }
};

template <class S>
Matrix<double> merged(const Parts& parts, DType to, bool turned) {
  MergedTensor plan;
  plan.b_key = "B";
  plan.a_key = "A";
  plan.m_key = "m";
  plan.scale = 1.5;
  plan.layout = turned ? Layout::in_out : Layout::out_in;
  std::vector<std::byte> bytes;
  lora::detail::TensorMerge<S>("W", parts.file, "W", parts.file, plan, to)
      .run([&](std::span<const std::byte> part) {
        bytes.insert(bytes.end(), part.begin(), part.end());
      });
  Matrix<double> result(turned ? 600 : 700, turned ? 700 : 600);
  decode_elements(to, bytes.data(),
                  std::span<double>(result.data(), static_cast<std::size_t>(result.size())));
  return turned ? Matrix<double>(result.transpose()) : result;
}

// c ∘ (W + s B A) with n over the whole weight, though it comes a part at a time.
TEST(TensorMerge, DoRAScalesEachOutput) {
  for (const DType dtype : {DType::F32, DType::BF16, DType::F16, DType::F64}) {
    for (const bool turned : {false, true}) {
      const Parts parts(dtype, turned);
      const Matrix<double> sum = parts.W + 1.5 * parts.B * parts.A;
      const Matrix<double> c = parts.m.reshaped(700, 1).cwiseQuotient(sum.rowwise().norm());
      const Matrix<double> expected = c.col(0).asDiagonal() * sum;
      const Matrix<double> got = dtype == DType::F64 ? merged<double>(parts, dtype, turned)
                                                     : merged<float>(parts, dtype, turned);
      const double unit = dtype == DType::BF16  ? 0x1p-8
                          : dtype == DType::F16 ? 0x1p-11
                          : dtype == DType::F32 ? 0x1p-23
                                                : 0x1p-52;
      const double parts_of_sum = dtype == DType::F64 ? 0x1p-48 : 0x1p-19;
      EXPECT_LE((got - expected).norm(), (unit + parts_of_sum) * expected.norm())
          << dtype_name(dtype) << (turned ? " turned" : "");
      const Matrix<double> other = merged<double>(parts, DType::F64, turned);
      EXPECT_LE((other - expected).norm(), 1e-13 * expected.norm()) << "to another type";
    }
  }
}

}  // namespace tensor_merge_test
