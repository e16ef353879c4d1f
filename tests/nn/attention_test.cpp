// Attention: against plain sums, gradients by complex steps, windows, sequences that go on, bits,
// memory and errors.
#include <lora/nn/attention.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"
#include "support/allocations.hpp"
#include "support/golden.hpp"
#include "support/threads.hpp"

namespace attention_test {
using namespace lora;
using namespace lora_test;

/// Everything of one call over sequences that lie end to end.
template <class S>
struct Case {
  AttentionShape shape;
  std::vector<Index> lengths;
  Matrix<S> q, k, v, y, lse, dy, dq, dk, dv;
  AttentionWorkspace<S> workspace;

  Case(AttentionShape s, std::vector<Index> l) : shape(s), lengths(std::move(l)) {
    Index T = 0;
    for (const Index n : lengths) T += n;
    const Index wide = s.heads * s.head_dim, narrow = s.kv_heads * s.head_dim;
    q = random_matrix<S>(T, wide, "q");
    k = random_matrix<S>(T, narrow, "k");
    v = random_matrix<S>(T, narrow, "v");
    dy = random_matrix<S>(T, wide, "dy");
    y = dq = Matrix<S>::Constant(T, wide, S(7));
    dk = dv = Matrix<S>::Constant(T, narrow, S(7));
    lse = Matrix<S>::Zero(T, s.heads);
  }
  void forward() {
    std::vector<AttentionSequence<S>> all;
    Index t = 0;
    for (const Index n : lengths) {
      all.push_back({View<S>(q).middle_rows(t, n), View<S>(k).middle_rows(t, n),
                     View<S>(v).middle_rows(t, n), MutableView<S>(y).middle_rows(t, n),
                     MutableView<S>(lse).middle_rows(t, n)});
      t += n;
    }
    attention_forward<S>(shape, all, workspace);
  }
  void backward() {
    std::vector<AttentionGradient<S>> all;
    Index t = 0;
    for (const Index n : lengths) {
      const auto in = [&](const Matrix<S>& m) { return View<S>(m).middle_rows(t, n); };
      const auto out = [&](Matrix<S>& m) { return MutableView<S>(m).middle_rows(t, n); };
      all.push_back({in(q), in(k), in(v), in(y), in(lse), in(dy), out(dq), out(dk), out(dv)});
      t += n;
    }
    attention_backward<S>(shape, all, workspace);
  }
};

/// y by plain sums.
Matrix<double> plain(const Case<double>& run) {
  const AttentionShape& s = run.shape;
  Matrix<double> y = Matrix<double>::Zero(run.q.rows(), run.q.cols());
  Index first = 0;
  for (const Index n : run.lengths) {
    for (Index i = first; i < first + n; ++i) {
      for (Index h = 0; h < s.heads; ++h) {
        const Index at = h * s.head_dim, kv = h / (s.heads / s.kv_heads) * s.head_dim;
        double sum = 0;
        for (Index j = first; j <= i; ++j) {
          if (s.window > 0 && j <= i - s.window) continue;
          const double p = std::exp(
              run.q.row(i).segment(at, s.head_dim).dot(run.k.row(j).segment(kv, s.head_dim)) /
              std::sqrt(static_cast<double>(s.head_dim)));
          sum += p;
          y.row(i).segment(at, s.head_dim) += p * run.v.row(j).segment(kv, s.head_dim);
        }
        y.row(i).segment(at, s.head_dim) /= sum;
      }
    }
    first += n;
  }
  return y;
}

const AttentionShape shapes[] = {
    {1, 1, 3, 0}, {4, 2, 5, 0}, {6, 1, 2, 3}, {3, 3, 4, 1}, {130, 2, 2, 9}};

TEST(Attention, IsItsFormula) {
  for (const AttentionShape& shape : shapes) {
    for (const std::vector<Index>& lengths :
         std::vector<std::vector<Index>>{{}, {1}, {7, 1, 4}, {150}, {65, 64}}) {
      Case<double> run(shape, lengths);
      run.forward();
      expect_close(run.y, plain(run), golden_bound(150 + shape.head_dim));
    }
  }
}

TEST(Attention, GradientsByComplexSteps) {
  // 130 heads over 2: a block has one query. 70 tokens: blocks of 64 and 6.
  const std::pair<AttentionShape, std::vector<Index>> cases[] = {
      {{1, 1, 3, 0}, {70}},    {{4, 2, 5, 0}, {7, 1, 4}}, {{6, 1, 2, 3}, {25}},
      {{3, 3, 4, 1}, {3}},     {{130, 2, 1, 2}, {4}},     {{2, 1, 3, 65}, {71}},
      {{64, 2, 1, 0}, {9, 5}}, {{4, 4, 2, 0}, {0, 1}}};
  for (const auto& [shape, lengths] : cases) {
    Case<double> run(shape, lengths);
    run.forward();
    run.backward();
    Case<Complex> moved(shape, lengths);
    const auto check = [&](Matrix<Complex> Case<Complex>::*which, const Matrix<double>& value,
                           const Matrix<double>& gradient, const char* name) {
      EXPECT_TRUE(gradcheck(
          [&](const Matrix<Complex>& at) {
            moved.*which = at;
            moved.forward();
            return inner(moved.y, run.dy);
          },
          value, gradient))
          << name;
      moved.*which = to_complex(value);
    };
    check(&Case<Complex>::q, run.q, run.dq, "dq");
    check(&Case<Complex>::k, run.k, run.dk, "dk");
    check(&Case<Complex>::v, run.v, run.dv, "dv");
  }
}

TEST(Attention, FloatIsNearDouble) {
  for (const AttentionShape& shape : {AttentionShape{6, 2, 64, 0}, AttentionShape{5, 5, 13, 40}}) {
    Case<double> exact(shape, {200, 30});
    Case<float> run(shape, {200, 30});
    exact.forward(), exact.backward();
    run.forward(), run.backward();
    // Sums of up to 200 terms and exponentials within a few units.
    const double bound = 300 * 0x1.0p-24;
    expect_close(run.y, exact.y, bound, "y");
    expect_close(run.lse, exact.lse, bound, "lse");
    expect_close(run.dq, exact.dq, bound, "dq");
    expect_close(run.dk, exact.dk, bound, "dk");
    expect_close(run.dv, exact.dv, bound, "dv");
  }
}

TEST(Attention, LargeScoresStayFinite) {
  Case<float> run({2, 2, 8, 0}, {90});
  run.q *= 1e4f;
  run.forward();
  run.backward();
  EXPECT_TRUE(run.y.allFinite());
  EXPECT_TRUE(run.dq.allFinite());
  Case<float> broken({2, 2, 8, 0}, {90});
  broken.k(20, 3) = std::numeric_limits<float>::quiet_NaN();
  broken.forward();
  EXPECT_TRUE(broken.y.topRows(20).allFinite());
  EXPECT_TRUE(std::isnan(broken.y(20, 0)) && std::isnan(broken.y(89, 0)));
}

TEST(Attention, SequencesThreadsAndRepeatsChangeNoBit) {
  for (const AttentionShape& shape : {AttentionShape{6, 2, 16, 0}, AttentionShape{4, 4, 10, 33}}) {
    Case<float> all(shape, {100, 3, 130});
    Matrix<float> y, dk, dq;
    for (const int threads : {1, 2, 5}) {
      const Threads use(threads);
      all.forward(), all.backward();
      if (threads == 1) y = all.y, dk = all.dk, dq = all.dq;
      EXPECT_TRUE(same_bits(all.y, y));
      EXPECT_TRUE(same_bits(all.dk, dk));
      EXPECT_TRUE(same_bits(all.dq, dq));
    }
    Case<float> last(shape, {130});
    last.q = all.q.bottomRows(130), last.k = all.k.bottomRows(130);
    last.v = all.v.bottomRows(130), last.dy = all.dy.bottomRows(130);
    last.forward(), last.backward();
    EXPECT_TRUE(same_bits(last.y, Matrix<float>(y.bottomRows(130))));
    EXPECT_TRUE(same_bits(last.dq, Matrix<float>(dq.bottomRows(130))));
    EXPECT_TRUE(same_bits(last.dk, Matrix<float>(dk.bottomRows(130))));
  }
}

TEST(Attention, GoesOnFromKeysThatWereSeen) {
  for (const Index window : {0, 9}) {
    Case<double> whole({4, 2, 6, window}, {75});
    whole.forward();
    const Index past = 71;
    Matrix<double> y(4, 24);
    const AttentionSequence<double> rest[] = {
        {View<double>(whole.q).middle_rows(past, 4), whole.k, whole.v, y, {}}};
    attention_forward<double>(whole.shape, rest, whole.workspace);
    expect_close(y, whole.y.bottomRows(4), golden_bound(75 + 6));
  }
}

TEST(Attention, ReadsPartsOfWiderMatrices) {
  Case<double> run({3, 3, 4, 0}, {20});
  run.forward();
  Matrix<double> all(20, 36), y(20, 12);
  all << run.q, run.k, run.v;
  const auto part = [&](Index i) { return View<double>(all).middle_cols(i * 12, 12); };
  const AttentionSequence<double> one[] = {{part(0), part(1), part(2), y, {}}};
  attention_forward<double>(run.shape, one, run.workspace);
  EXPECT_TRUE(same_bits(y, run.y));
}

TEST(Attention, MemoryGrowsWithTheLengthAndASteadyCallAllocatesNothing) {
  const auto floats = [](Index T) {
    const Threads use(2);
    Case<float> run({4, 2, 16, 0}, {T});
    run.forward(), run.backward();
    Index n = 0;
    for (const Matrix<float>& memory : run.workspace.of_thread) n += memory.size();
    return n;
  };
  EXPECT_LT(floats(1024), 2 * floats(512));
  LORA_NEEDS_ALLOCATION_COUNTS();
  const Threads use(1);
  Case<float> run({4, 2, 16, 0}, {100, 80});
  std::vector<AttentionSequence<float>> one = {{run.q, run.k, run.v, run.y, run.lse}};
  std::vector<AttentionGradient<float>> gradient = {
      {run.q, run.k, run.v, run.y, run.lse, run.dy, run.dq, run.dk, run.dv}};
  const auto step = [&] {
    attention_forward<float>(run.shape, one, run.workspace);
    attention_backward<float>(run.shape, gradient, run.workspace);
  };
  step();
  AllocationCounter counter;
  step();
  EXPECT_EQ(counter.stop().calls, 0u);
}

TEST(AttentionErrors, ShapesAndHeads) {
  Case<float> run({4, 2, 3, 0}, {5});
  Matrix<float> wrong(5, 5), shorter(4, 6);
  const auto forward = [&](View<float> q, View<float> k, View<float> v, MutableView<float> y,
                           AttentionShape shape) {
    const AttentionSequence<float> one[] = {{q, k, v, y, {}}};
    attention_forward<float>(shape, one, run.workspace);
  };
  EXPECT_TRUE(throws<ShapeError>([&] { forward(wrong, run.k, run.v, run.y, run.shape); },
                                 {"attention_forward: q is (5, 5), expected (5, 12)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { forward(run.q, wrong, run.v, run.y, run.shape); },
                                 {"attention_forward: k is (5, 5), expected at least (5, 6)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { forward(run.q, shorter, shorter, run.y, run.shape); },
                                 {"attention_forward: k is (4, 6), expected at least (5, 6)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { forward(run.q, run.k, shorter, run.y, run.shape); },
                                 {"attention_forward: v is (4, 6), expected (5, 6)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { forward(run.q, run.k, run.v, wrong, run.shape); },
                                 {"attention_forward: y is (5, 5), expected (5, 12)"}));
  for (const AttentionShape shape :
       {AttentionShape{4, 3, 3, 0}, AttentionShape{4, 0, 3, 0}, AttentionShape{0, 1, 3, 0},
        AttentionShape{4, 2, 0, 0}, AttentionShape{4, 2, 3, -1}, AttentionShape{258, 2, 3, 0}}) {
    EXPECT_TRUE(throws<ConfigError>([&] { forward(run.q, run.k, run.v, run.y, shape); },
                                    {"attention_forward: ", " heads of ", " key heads"}));
  }
  const auto backward = [&](AttentionGradient<float> one) {
    attention_backward<float>(run.shape, std::span<const AttentionGradient<float>>(&one, 1),
                              run.workspace);
  };
  const AttentionGradient<float> good = {run.q,  run.k,  run.v,  run.y, run.lse,
                                         run.dy, run.dq, run.dk, run.dv};
  AttentionGradient<float> bad = good;
  bad.dy = wrong;
  EXPECT_TRUE(throws<ShapeError>([&] { backward(bad); },
                                 {"attention_backward: dy is (5, 5), expected (5, 12)"}));
  bad = good;
  bad.lse = wrong;
  EXPECT_TRUE(throws<ShapeError>([&] { backward(bad); },
                                 {"attention_backward: lse is (5, 5), expected (5, 4)"}));
  bad = good;
  bad.dq = wrong;
  EXPECT_TRUE(throws<ShapeError>([&] { backward(bad); },
                                 {"attention_backward: dq is (5, 5), expected (5, 12)"}));
  bad = good;
  bad.dk = shorter;
  EXPECT_TRUE(throws<ShapeError>([&] { backward(bad); },
                                 {"attention_backward: dk is (4, 6), expected (5, 6)"}));
  bad = good;
  bad.dv = wrong;
  EXPECT_TRUE(throws<ShapeError>([&] { backward(bad); },
                                 {"attention_backward: dv is (5, 5), expected (5, 6)"}));
  Matrix<float> longer(6, 6);
  bad = good;
  bad.k = bad.v = longer;
  EXPECT_TRUE(throws<ShapeError>([&] { backward(bad); },
                                 {"attention_backward: k is (6, 6), expected (5, 6)"}));
}

}  // namespace attention_test
