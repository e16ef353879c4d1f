// What a Pass changes: parts of a batch, seeds and uses, and an adapter for each row.
#include <lora/layers/lora_linear.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"
#include "support/threads.hpp"

namespace pass_test {
using namespace lora;
using namespace lora_test;

template <class S>
LoRALinear<S> layer_of(double dropout) {
  LoRALinear<S> layer(random_matrix<S>(19, 37, "W"), random_matrix<S>(1, 19, "b"));
  AdapterOptions options = rank(5, 7, dropout);
  options.lora_bias = true;
  add_full_adapter(layer, "a", options);
  add_full_adapter(layer, "b", rank(3, 2));
  add_full_adapter(layer, "c", rank(2, 3));
  layer.adapters().set_active({"b", "a"});
  return layer;
}

template <class S>
class PassOf : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(PassOf, Scalars, );

TYPED_TEST(PassOf, ABatchInPartsGivesTheBitsOfTheWhole) {
  using S = TypeParam;
  constexpr Index rows = 150;
  for (const double dropout : {0.0, 0.4}) {
    LoRALinear<S> layer = layer_of<S>(dropout);
    const Matrix<S> x = random_matrix<S>(rows, 37, "x"), dy = random_matrix<S>(rows, 19, "dy");
    Pass pass;
    pass.training = true;
    pass.seed = 9;
    pass.first_row = 1000;
    Matrix<S> y(rows, 19), dx, h(rows, 3 + 5);
    typename LoRALinear<S>::Tape tape;
    layer.forward(x, y, &tape, pass);
    layer.backward(x, dy, tape, &dx);
    h << tape.adapters[0].h, tape.adapters[1].h;
    Index first = 0;
    for (const Index end :
         {1, 2, 64, 65, 65, 130, 150}) {  // an empty part too, and cuts on both sides of a chunk
      const Index count = end - first;
      Pass part = pass;
      part.first_row = pass.first_row + first;
      Matrix<S> part_y(count, 19), part_dx, part_h(count, 8);
      layer.forward(x.middleRows(first, count), part_y, &tape, part);
      layer.backward(x.middleRows(first, count), dy.middleRows(first, count), tape, &part_dx);
      if (count > 0) part_h << tape.adapters[0].h, tape.adapters[1].h;
      EXPECT_TRUE(same_bits(part_y, Matrix<S>(y.middleRows(first, count))))
          << "y from row " << first;
      EXPECT_TRUE(same_bits(part_dx, Matrix<S>(dx.middleRows(first, count))))
          << "dx from row " << first;
      EXPECT_TRUE(same_bits(part_h, Matrix<S>(h.middleRows(first, count))))
          << "h from row " << first;
      first = end;
    }
  }
}

TEST(Pass, SeedUseAndRowChooseTheMaskAndTheSameOnesGiveTheSame) {
  const LoRALinear<double> layer = layer_of<double>(0.4);
  const Matrix<double> x = random_matrix(6, 37, "x");
  const auto with = [&](std::uint64_t seed, std::uint64_t use, Index first_row,
                        bool training = true) {
    Pass pass;
    pass.training = training;
    pass.seed = seed;
    pass.use = use;
    pass.first_row = first_row;
    Matrix<double> y(6, 19);
    layer.forward(x, y, nullptr, pass);
    return y;
  };
  const Matrix<double> y = with(1, 0, 0);
  EXPECT_TRUE(same_bits(with(1, 0, 0), y));
  EXPECT_FALSE(same_bits(with(2, 0, 0), y));
  EXPECT_FALSE(same_bits(with(1, 1, 0), y));
  EXPECT_FALSE(same_bits(with(0, 1, 0), with(1, 0, 0))) << "seed and use are not one number";
  EXPECT_FALSE(same_bits(with(1, 0, 6), y));
  EXPECT_TRUE(same_bits(with(1, 0, 0, false), with(2, 1, 6, false)))
      << "without training they do nothing";
}

TEST(Pass, EachRowCanHaveAnAdapterOfItsOwn) {
  const Threads four(4);
  LoRALinear<double> layer = layer_of<double>(0.4);
  std::vector<std::string> names = {"a", "a", "__base__", "c",        "b",
                                    "c", "c", "__base__", "__base__", "a"};
  for (const bool long_runs : {false, true}) {
    if (long_runs) names.insert(names.end(), 11, "b");
    const Index rows = static_cast<Index>(names.size());
    const Matrix<double> x = random_matrix(rows, 37, "x");
    Matrix<double> y(rows, 19), one(1, 19);
    Pass pass;
    pass.adapter_names = names;
    layer.forward(x, y, nullptr, pass);
    for (Index t = 0; t < rows; ++t) {
      const std::string& name = names[static_cast<std::size_t>(t)];
      layer.adapters().set_active(name == base_adapter_name ? std::vector<std::string>()
                                                            : std::vector<std::string>{name});
      layer.forward(x.row(t), one);
      EXPECT_TRUE(same_bits(one, Matrix<double>(y.row(t)))) << "row " << t << ", " << name;
    }
  }
}

// A layer without the adapter of a row is its base there, and a trained copy acts for the rows of
// its adapter alone.
TEST(Pass, ARowGoesThroughWhatTheLayerHasOfItsAdapter) {
  LoRALinear<double> layer = layer_of<double>(0);
  for (const char* name : {"saved", "saved too"}) {
    layer.add_trained_copy(name);
    layer.trained_copies().find(name)->weight.value *= *name == 's' ? 0.5 : 1;
  }
  layer.trained_copies().find("saved too")->weight.value *= 3;
  layer.trained_copies().find("saved too")->bias.value.setOnes();
  const std::vector<std::string> names = {"a",         "elsewhere", "saved",     "saved",
                                          "saved too", "__base__",  "saved",     "a",
                                          "b",         "b",         "elsewhere", "saved too"};
  const Index rows = static_cast<Index>(names.size());
  const Matrix<double> x = random_matrix(rows, 37, "x");
  Matrix<double> y(rows, 19), one(1, 19);
  Pass pass;
  pass.adapter_names = names;
  for (const char* acting : {"", "saved"}) {
    layer.trained_copies().activate(acting);  // what acts without names makes no difference
    LoRALinear<double>::Tape tape;
    layer.forward(x, y, &tape, pass);
    LoRALinear<double> alone = layer;
    for (Index t = 0; t < rows; ++t) {
      const std::string& name = names[static_cast<std::size_t>(t)];
      alone.adapters().set_active(alone.adapters().contains(name) ? std::vector<std::string>{name}
                                                                  : std::vector<std::string>());
      alone.trained_copies().activate(name);
      alone.forward(x.row(t), one);
      EXPECT_TRUE(same_bits(one, Matrix<double>(y.row(t)))) << "row " << t << ", " << name;
    }
  }
  layer.adapters().set_enabled(false);
  layer.forward(x, y, nullptr, pass);
  Matrix<double> base(rows, 19);
  LoRALinear<double>(layer.weight(), layer.bias().value).forward(x, base);
  EXPECT_TRUE(same_bits(y, base)) << "disabled, all rows are the base's";
  LoRALinear<double> trained(layer.weight(), layer.bias().value);
  trained.train_base();
  trained.trained_copies().find(base_adapter_name)->weight.value *= 2;
  trained.forward(x, y, nullptr, pass);
  trained.forward(x, base);
  EXPECT_TRUE(same_bits(y, base)) << "a base that is trained whole is the base";
}

TEST(Pass, TheNamesOfRowsNeedNotOutliveForwardAndTheNextForwardForgetsThem) {
  LoRALinear<double> layer = layer_of<double>(0);
  const Matrix<double> x = random_matrix(2, 37, "x"), dy = random_matrix(2, 19, "dy");
  Matrix<double> y(2, 19), expected(2, 19), dx;
  LoRALinear<double>::Tape tape;
  {
    const std::vector<std::string> names = {"a", "c"};
    Pass pass;
    pass.adapter_names = names;
    layer.forward(x, y, &tape, pass);
  }
  EXPECT_TRUE(tape.pass.adapter_names.empty());
  layer.forward(x, y, &tape);
  layer.forward(x, expected);
  EXPECT_TRUE(same_bits(y, expected));
  layer.backward(x, dy, tape, &dx);
  EXPECT_GT(layer.adapters().get("a").B.grad.norm(), 0);
}

}  // namespace pass_test
