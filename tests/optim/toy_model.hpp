// A list of named parameters, which is all that an optimiser asks of a model; and the message of
// what a call throws.
#pragma once

#include <lora/core/parameter.hpp>
#include <lora/core/random.hpp>
#include <lora/optim/optimizer_state.hpp>

#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "support/golden.hpp"
#include "support/messages.hpp"

namespace lora_test {

template <class S>
struct ToyModel {
  std::deque<std::pair<std::string, lora::Parameter<S>>> list;

  lora::Parameter<S>& add(const std::string& name, lora::Matrix<S> value,
                          std::vector<lora::Index> shape = {}, bool train = true) {
    if (shape.empty()) shape = {value.rows(), value.cols()};
    list.emplace_back(name, lora::Parameter<S>(std::move(value), std::move(shape), train));
    return list.back().second;
  }
  lora::Parameter<S>& operator[](const std::string& name) {
    for (auto& [n, p] : list) {
      if (n == name) return p;
    }
    throw std::runtime_error("no parameter " + name);
  }
  template <class Fn>
  void for_each_parameter(const lora::NamePath& prefix, Fn fn) {
    for (auto& [name, p] : list) fn(lora::NamePath(prefix, name), p);
  }
};

/// "p0" or "p0.3": the golden files' names.
inline std::string tensor_name(char letter, int tensor, int step = -1) {
  std::string name(1, letter);
  name += std::to_string(tensor);
  if (step >= 0) name.append(".").append(std::to_string(step));
  return name;
}

/// Three tensors of odd and unequal sizes, one of them long enough for a vector loop.
template <class S>
ToyModel<S> three_tensors(std::uint64_t seed = 1) {
  ToyModel<S> model;
  const lora::Index sizes[3][2] = {{3, 5}, {1, 7}, {11, 13}};
  for (int i = 0; i < 3; ++i) {
    lora::Matrix<S> value(sizes[i][0], sizes[i][1]);
    const std::string name = tensor_name('t', i);
    lora::fill_normal(value, lora::RandomStream(seed, name), 1.0);
    std::vector<lora::Index> shape;
    if (i == 1) shape = {7};
    model.add(name, value, shape);
  }
  return model;
}

/// Gradients that depend on the name and the step alone.
template <class S>
void draw_gradients(ToyModel<S>& model, int step) {
  for (auto& [name, p] : model.list) {
    if (p.trainable)
      lora::fill_normal(p.grad, lora::RandomStream(7, name + std::to_string(step)), 0.3);
  }
}

template <class S>
bool same_bytes(const lora::Matrix<S>& a, const lora::Matrix<S>& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         (a.size() == 0 ||
          std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(S)) == 0);
}
template <class S>
bool same_values(const ToyModel<S>& a, const ToyModel<S>& b) {
  bool same = a.list.size() == b.list.size();
  for (std::size_t i = 0; same && i < a.list.size(); ++i) {
    same = a.list[i].first == b.list[i].first &&
           same_bytes(a.list[i].second.value, b.list[i].second.value);
  }
  return same;
}
template <class S>
bool same_states(const lora::OptimizerState<S>& a, const lora::OptimizerState<S>& b) {
  if (a.step != b.step || a.tensors.size() != b.tensors.size()) return false;
  for (const auto& [name, tensor] : a.tensors) {
    const auto other = b.tensors.find(name);
    if (other == b.tensors.end() || other->second.step != tensor.step) return false;
    if (other->second.moments.size() != tensor.moments.size()) return false;
    for (const auto& [kind, moment] : tensor.moments) {
      const auto m = other->second.moments.find(kind);
      if (m == other->second.moments.end() || !same_bytes(moment, m->second)) return false;
    }
  }
  return true;
}

#define EXPECT_MESSAGE(E, call, part)                                          \
  do {                                                                         \
    const std::string text_ = lora_test::message_of<E>([&] { (void)(call); }); \
    EXPECT_NE(text_.find(part), std::string::npos) << text_;                   \
  } while (false)

/// Replays the steps of one golden optimiser case, each value held against PyTorch's. The bound
/// adds up 8 roundings of the value and 8 of the update a step.
template <class S, class Optimizer>
void replay(const GoldenCase& one, Optimizer optimizer, double lr) {
  const auto file = one.tensors();
  ToyModel<S> model;
  int tensors = 0;
  for (; file.contains(tensor_name('p', tensors, 0)); ++tensors) {
    const std::string start = tensor_name('p', tensors, 0);
    model.add(tensor_name('p', tensors), file.matrix<S>(start), file.info(start).shape);
  }
  const auto count = static_cast<std::size_t>(tensors);
  const double unit = std::numeric_limits<S>::epsilon() / 2;
  std::vector<lora::Matrix<double>> bound(count);
  int step = 1;
  for (; file.contains(tensor_name('g', 0, step)); ++step) {
    std::vector<lora::Matrix<S>> before(count);
    for (int i = 0; i < tensors; ++i) {
      auto& p = model[tensor_name('p', i)];
      p.grad = file.matrix<S>(tensor_name('g', i, step));
      before[static_cast<std::size_t>(i)] = p.value;
    }
    optimizer.step(model);
    for (std::size_t i = 0; i < count; ++i) {
      const auto& p = model[tensor_name('p', static_cast<int>(i))].value;
      const auto expected = file.matrix<S>(tensor_name('p', static_cast<int>(i), step));
      if (step == 1) bound[i].setZero(p.rows(), p.cols());
      bound[i].array() += 8 * unit * (before[i].template cast<double>().array().abs() + lr);
      ASSERT_EQ(p.size(), expected.size());
      for (lora::Index k = 0; k < p.size(); ++k) {
        const double error = std::abs(static_cast<double>(p.data()[k]) - expected.data()[k]);
        EXPECT_LE(error, bound[i].data()[k]) << " tensor " << i << " step " << step;
      }
    }
  }
  EXPECT_GE(tensors, 1);
  EXPECT_GT(step, 1) << "no gradient";
}

/// check(one, S{}) for each golden case of an optimiser, S being the type of its tensors; every set
/// has some in both types.
template <class Check>
void for_each_golden_optimiser(const std::string& name, Check check) {
  for_each_golden_set([&](const GoldenSet& set) {
    int single = 0, both = 0;
    for (const GoldenCase& one : golden_cases(set, "optimiser")) {
      if (!one.name().starts_with(name + "_")) continue;
      check_golden_part(one.name(), [&] {
        const bool is_single = one.tensors().info("p0.0").dtype == lora::DType::F32;
        is_single ? check(one, float{}) : check(one, double{});
        single += is_single;
      });
      ++both;
    }
    EXPECT_GE(single, 1);
    EXPECT_GT(both, single);
  });
}

}  // namespace lora_test
