#include <lora/adapters/output_norms.hpp>
#include <lora/layers/lora_linear.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"

namespace output_norms_test {
using namespace lora;
using namespace lora_test;

TEST(OutputNorms, RowByRowAreThoseOfTheWhole) {
  Matrix<double> W = random_matrix(11, 6, "W");
  W.row(4).setZero();
  LoRALinear<double> layer{W};
  AdapterOptions options = rank(3);
  options.variant = DoRA{};
  add_full_adapter(layer, "a", options);
  const Adapter<double>& adapter = layer.adapters().get("a");
  const Matrix<double> expected = DoRA::output_scale(adapter, layer.base_map());
  for (const Layout layout : {Layout::out_in, Layout::in_out}) {
    const Matrix<double> stored = layout == Layout::out_in ? W : Matrix<double>(W.transpose());
    for (const Index count : {Index{1}, Index{4}, stored.rows()}) {
      OutputNorms<double> norms(adapter.A.value, 11, layout);
      for (Index first = 0; first < stored.rows(); first += count) {
        const Matrix<double> rows =
            stored.middleRows(first, std::min(count, stored.rows() - first));
        norms.add_rows(first, rows);
      }
      const Matrix<double> c =
          norms.scale(adapter.own[0].parameter.value, adapter.scale(), adapter.B.value);
      EXPECT_LE((c - expected).norm(), 1e-14) << count;
    }
  }
}

}  // namespace output_norms_test
