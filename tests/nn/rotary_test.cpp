// Rotary embedding: angles of every scaling, positions of sequences, the turn and its inverse.
#include <lora/nn/rotary.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"
#include "support/threads.hpp"

namespace rotary_test {
using namespace lora;
using namespace lora_test;

Rope rope_of(RopeScaling scaling = {}) { return {12, 10000, scaling, 100}; }

TEST(Rotary, FrequenciesOfEveryScaling) {
  using Type = RopeScaling::Type;
  const double f = std::pow(10000, -4.0 / 12);
  EXPECT_NEAR(rope_frequency(rope_of(), 0, 7), 1, 1e-15);
  EXPECT_NEAR(rope_frequency(rope_of(), 2, 7), f, 1e-15);
  EXPECT_NEAR(rope_frequency(rope_of({Type::linear, 4}), 2, 7), f / 4, 1e-15);
  // Not stretched before its last position, then by (2 · 150 / 100 − 1)^(12/10).
  EXPECT_EQ(rope_frequency(rope_of({Type::dynamic, 2}), 2, 100), rope_frequency(rope_of(), 2, 7));
  EXPECT_NEAR(rope_frequency(rope_of({Type::dynamic, 2}), 2, 150),
              std::pow(10000 * std::pow(2.0, 1.2), -4.0 / 12), 1e-15);
  // Wavelengths 2π 10000^(2i/12): 6.3, 29, 135, 628, … against 64 positions: kept below 16, divided
  // above 64, in between at i = 1 by s = (64/29.16 − 1) / 3.
  const RopeScaling llama3{Type::llama3, 8, 1, 4, 64};
  const auto plain = [](Index i) { return rope_frequency(rope_of(), i, 7); };
  EXPECT_EQ(rope_frequency(rope_of(llama3), 0, 7), plain(0));
  EXPECT_EQ(rope_frequency(rope_of(llama3), 2, 7), plain(2) / 8);
  const double s = (64 * plain(1) / (2 * 3.14159265358979324) - 1) / 3;
  EXPECT_NEAR(rope_frequency(rope_of(llama3), 1, 7), (1 - s) * plain(1) / 8 + s * plain(1), 1e-15);
}

TEST(Rotary, PositionsStartAnewInEachSequenceOrGoOn) {
  const std::vector<Index> lengths = {3, 5, 1}, past = {0, 4, 90};
  RotaryTable<double> table, one;
  table.prepare(rope_of(), lengths, past);
  ASSERT_EQ(table.cosine.rows(), 9);
  const Index long_one[] = {100};
  one.prepare(rope_of(), long_one);
  const Index positions[] = {0, 1, 2, 4, 5, 6, 7, 8, 90};
  for (Index t = 0; t < 9; ++t) {
    EXPECT_EQ(table.cosine.row(t), one.cosine.row(positions[t]));
    EXPECT_EQ(table.sine.row(t), one.sine.row(positions[t]));
  }
  EXPECT_NEAR(one.sine(90, 1), std::sin(90 * std::pow(10000, -2.0 / 12)), 90 * 0x1.0p-22);
  // A stretched sequence does not stretch its neighbours.
  const Index mixed[] = {3, 120};
  const Rope dynamic = rope_of({RopeScaling::Type::dynamic, 2});
  table.prepare(dynamic, mixed);
  EXPECT_EQ(table.cosine.row(2), one.cosine.row(2));
  EXPECT_NE(table.cosine.row(5), one.cosine.row(2));
}

TEST(Rotary, TurnsPairsAndBackAgain) {
  const Index lengths[] = {5};
  RotaryTable<double> table;
  table.prepare(rope_of(), lengths);
  const Matrix<double> x = random_matrix(5, 36, "x");
  Matrix<double> y = x;
  rotate<double>(y, table);
  for (Index t = 0; t < 5; ++t) {
    for (Index head = 0; head < 36; head += 12) {
      for (Index i = 0; i < 6; ++i) {
        const double c = table.cosine(t, i), s = table.sine(t, i), a = x(t, head + i),
                     b = x(t, head + 6 + i);
        EXPECT_NEAR(y(t, head + i), a * c - b * s, 1e-15);
        EXPECT_NEAR(y(t, head + 6 + i), b * c + a * s, 1e-15);
      }
    }
  }
  rotate<double>(y, table, Turn::backward);
  EXPECT_TRUE(y.isApprox(x, 1e-7)) << "cosines and sines are those of float32";
}

TEST(Rotary, BackwardIsTheTranspose) {
  const Index lengths[] = {2, 3};
  RotaryTable<double> table;
  RotaryTable<Complex> moved;
  table.prepare({18, 100, {}, 100}, lengths);  // nine pairs: eight and one
  moved.prepare({18, 100, {}, 100}, lengths);
  const Matrix<double> x = random_matrix(5, 36, "x"), dy = random_matrix(5, 36, "dy");
  Matrix<double> dx = dy;
  rotate<double>(dx, table, Turn::backward);
  EXPECT_TRUE(gradcheck(
      [&](const Matrix<Complex>& at) {
        Matrix<Complex> y = at;
        rotate<Complex>(y, moved);
        return inner(y, dy);
      },
      x, dx));
}

TEST(Rotary, ThreadsChangeNoBit) {
  const Index lengths[] = {700};
  Matrix<float> one;
  for (const int threads : {1, 4}) {
    const Threads use(threads);
    RotaryTable<float> table;
    table.prepare(rope_of(), lengths);
    Matrix<float> x = random_matrix<float>(700, 36, "x");
    rotate<float>(x, table);
    if (threads == 1) one = x;
    EXPECT_TRUE(same_bits(x, one));
  }
}

TEST(RotaryErrors, Shapes) {
  RotaryTable<float> table;
  const Index lengths[] = {3};
  table.prepare(rope_of(), lengths);
  Matrix<float> rows(2, 12), cols(3, 18);
  EXPECT_TRUE(throws<ShapeError>([&] { rotate<float>(rows, table); },
                                 {"rotate: x is (2, 12), expected (3, T)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { rotate<float>(cols, table); },
                                 {"rotate: x is (3, 18), expected a multiple of 12 columns"}));
}

}  // namespace rotary_test
