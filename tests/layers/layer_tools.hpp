// What the tests of layers and models share: bits, messages, layers with numbers in them, and the
// check of a whole layer's gradients.
#pragma once

#include <lora/layers/adapter.hpp>

#include <gtest/gtest.h>

#include <cstring>
#include <initializer_list>
#include <string>
#include <typeinfo>
#include <vector>

#include "support/gradcheck.hpp"

namespace lora_test {

/// Whether two matrices are the same byte for byte.
template <class S>
testing::AssertionResult same_bits(const Matrix<S>& a, const Matrix<S>& b) {
  if (a.rows() != b.rows() || a.cols() != b.cols()) {
    return testing::AssertionFailure() << "(" << a.rows() << ", " << a.cols() << ") beside ("
                                       << b.rows() << ", " << b.cols() << ")";
  }
  for (Index i = 0; i < a.size(); ++i) {
    if (std::memcmp(a.data() + i, b.data() + i, sizeof(S)) == 0) continue;
    return testing::AssertionFailure() << "element (" << i / a.cols() << ", " << i % a.cols()
                                       << "): " << a.data()[i] << " beside " << b.data()[i];
  }
  return testing::AssertionSuccess();
}

/// Whether fn throws an E, and not another type of its family, whose message has all of `parts`.
template <class E, class Fn>
testing::AssertionResult throws(Fn&& fn, std::initializer_list<const char*> parts) {
  try {
    fn();
  } catch (const E& error) {
    if (typeid(error) != typeid(E))
      return testing::AssertionFailure() << "threw a " << typeid(error).name();
    for (const char* part : parts) {
      if (std::string(error.what()).find(part) == std::string::npos) {
        return testing::AssertionFailure()
               << "the message \"" << error.what() << "\" lacks \"" << part << "\"";
      }
    }
    return testing::AssertionSuccess();
  } catch (const std::exception& error) {
    return testing::AssertionFailure()
           << "threw a " << typeid(error).name() << ": " << error.what();
  }
  return testing::AssertionFailure() << "nothing was thrown";
}

/// Sizes at which a linear layer's gradients are checked.
struct LayerShape {
  const char* what;
  Index rows, in, out, r;
};
inline constexpr LayerShape edge_shapes[] = {
    {"odd and unequal", 5, 7, 11, 3},
    {"one token", 1, 7, 11, 3},
    {"no token", 0, 7, 11, 3},
    {"rank 1", 4, 9, 5, 1},
    {"rank above both", 3, 5, 7, 13},
    {"one feature in and out", 6, 1, 1, 2},
    {"more rows than a chunk", 67, 3, 2, 2},
    {"wider than a block", 3, 2, 300, 2},
};

/// The options most tests want: r and alpha with an s that is not 1.
inline lora::AdapterOptions rank(Index r, double alpha = 5, double dropout = 0) {
  lora::AdapterOptions options;
  options.r = r;
  options.lora_alpha = alpha;
  options.lora_dropout = dropout;
  return options;
}

/// Adds adapter `name` with A, B and, if there is one, bias full of numbers that depend on the name
/// alone.
template <class Layer>
void add_full_adapter(Layer& layer, const std::string& name, const lora::AdapterOptions& options) {
  using S = typename Layer::Scalar;
  layer.add_adapter(name, options);
  auto& adapter = layer.adapters().get(name);
  adapter.A.value =
      random_matrix<S>(adapter.A.value.rows(), adapter.A.value.cols(), "A of " + name, 0.5);
  adapter.B.value =
      random_matrix<S>(adapter.B.value.rows(), adapter.B.value.cols(), "B of " + name, 0.5);
  if (!adapter.bias.empty())
    adapter.bias.value = random_matrix<S>(1, adapter.bias.size(), "bias of " + name);
}

/// One tensor of an object by its full name.
template <class T>
lora::Parameter<typename T::Scalar>& parameter_of(T& object, const std::string& name) {
  lora::Parameter<typename T::Scalar>* found = nullptr;
  object.for_each_parameter("", [&](const lora::NamePath& own, auto& p) {
    if (own.str() == name) found = &p;
  });
  if (found == nullptr) throw std::runtime_error("no parameter " + name);
  return *found;
}

/// Holds the gradient of each trainable tensor of `object` against complex steps of `loss`, a
/// function without arguments that runs `moved`, the same object over complex numbers. Gives the
/// number of tensors, so that none is left out unseen.
template <class T, class Moved, class Loss>
int check_parameter_gradients(T& object, Moved& moved, Loss&& loss) {
  int checked = 0;
  object.for_each_parameter("", [&](const lora::NamePath& path, auto& p) {
    if (!p.trainable) return;
    const std::string name = path;
    lora::Parameter<Complex>& place = parameter_of(moved, name);
    EXPECT_TRUE(gradcheck(
        [&](const Matrix<Complex>& value) {
          place.value = value;
          return loss();
        },
        p.value, p.grad))
        << name;
    place.value = to_complex(p.value);
    ++checked;
  });
  return checked;
}

/// Every gradient of a layer from x (T, D) to y (T, O) with a loss Σ y ∘ dy: those of the trainable
/// tensors, and dx, which is added to what was there before. `make(S{})` gives the layer over S.
/// Gives the number of tensors.
template <class Make>
int check_gradients(Make&& make, Index rows, const lora::Pass& pass = {}) {
  auto layer = make(double{});
  auto moved = make(Complex{});
  const Matrix<double> x = random_matrix(rows, layer.in_features(), "x"),
                       dy = random_matrix(rows, layer.out_features(), "dy");
  Matrix<double> y(rows, layer.out_features()), dx;
  typename decltype(layer)::Tape tape;
  layer.forward(x, y, &tape, pass);
  layer.backward(x, dy, tape, &dx);
  Matrix<Complex> moved_y(rows, layer.out_features());
  const auto loss = [&](const Matrix<Complex>& at) {
    moved.forward(at, moved_y, nullptr, pass);
    return inner(moved_y, dy);
  };
  EXPECT_TRUE(gradcheck(loss, x, dx)) << "dx";
  const Matrix<Complex> fixed = to_complex(x);
  return check_parameter_gradients(layer, moved, [&] { return loss(fixed); });
}

}  // namespace lora_test
