// Elementwise activations and their derivatives.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/overlap.hpp>
#include <lora/core/printable.hpp>
#include <lora/core/scalar.hpp>
#include <lora/core/types.hpp>
#include <lora/kernels/dispatch.hpp>
#include <lora/nn/rows.hpp>

#include <array>
#include <cmath>
#include <string>
#include <string_view>
#include <type_traits>

namespace lora {

/// The activation of a layer. `gelu` is exact; `gelu_tanh` is its approximation (GPT-2, Gemma).
enum class Activation { identity, relu, gelu, gelu_tanh, silu, sigmoid, tanh };

namespace activations {

// One struct per activation: `value` is f(x), `backward` is dy·f'(x). A new activation is a struct
// here, a line in visit and a line in names.
struct Identity {
  template <class S>
  static S value(S x) {
    return x;
  }
  template <class S>
  static S backward(S, S dy) {
    return dy;
  }
};

struct Relu {
  // "<= 0" rather than "> 0", so that a NaN passes through.
  template <class S>
  static S value(S x) {
    return real_part(x) <= 0 ? S(0) : x;
  }
  // A selection rather than a product, so that an infinite dy does not reach elements that are off.
  template <class S>
  static S backward(S x, S dy) {
    return real_part(x) <= 0 ? S(0) : dy;
  }
};

struct Gelu {
  template <class S>
  static S cdf(S x) {
    constexpr RealOf<S> sqrt_half = RealOf<S>(0.70710678118654752440L);
    return RealOf<S>(0.5) * (RealOf<S>(1) + error_function(S(x * sqrt_half)));
  }
  template <class S>
  static S value(S x) {
    return x * cdf(x);
  }
  // (x Φ(x))' = Φ(x) + x φ(x)
  template <class S>
  static S backward(S x, S dy) {
    constexpr RealOf<S> inverse_sqrt_two_pi = RealOf<S>(0.39894228040143267794L);
    using std::exp;
    return dy * (cdf(x) + x * (inverse_sqrt_two_pi * exp(x * x * RealOf<S>(-0.5))));
  }
};

struct GeluTanh {
  template <class S>
  static S tanh_inner(S x) {
    constexpr RealOf<S> beta = RealOf<S>(0.79788456080286535588L);  // √(2/π)
    using std::tanh;
    return tanh(beta * (x + RealOf<S>(0.044715) * (x * x * x)));
  }
  template <class S>
  static S value(S x) {
    return RealOf<S>(0.5) * x * (RealOf<S>(1) + tanh_inner(x));
  }
  // (½ x (1 + t))' = ½ (1 + t) + ½ x (1 − t²) u' with u' = β (1 + 3·0.044715 x²)
  template <class S>
  static S backward(S x, S dy) {
    using R = RealOf<S>;
    constexpr R beta = R(0.79788456080286535588L);
    const S t = tanh_inner(x);
    const S dt = R(1) - t * t;
    // Where tanh has saturated, x² may have overflowed, and 0 · ∞ would turn a finite x into a NaN.
    const S du = real_part(dt) == 0 ? S(0) : beta * (R(1) + R(3 * 0.044715) * (x * x));
    return dy * (R(0.5) * (R(1) + t) + R(0.5) * x * dt * du);
  }
};

struct Sigmoid {
  template <class S>
  static S value(S x) {
    using std::exp;
    return RealOf<S>(1) / (RealOf<S>(1) + exp(-x));
  }
  template <class S>
  static S backward(S x, S dy) {
    const S y = value(x);
    return dy * (RealOf<S>(1) - y) * y;
  }
};

struct Silu {
  template <class S>
  static S value(S x) {
    using std::exp;
    return x / (RealOf<S>(1) + exp(-x));
  }
  // (x σ)' = σ + x σ (1 − σ)
  template <class S>
  static S backward(S x, S dy) {
    const S sigma = Sigmoid::value(x);
    return dy * sigma * (RealOf<S>(1) + x * (RealOf<S>(1) - sigma));
  }
};

struct Tanh {
  template <class S>
  static S value(S x) {
    using std::tanh;
    return tanh(x);
  }
  template <class S>
  static S backward(S x, S dy) {
    const S y = value(x);
    return dy * (RealOf<S>(1) - y * y);
  }
};

template <class Fn>
void visit(Activation kind, const char* where, Fn&& fn) {
  switch (kind) {
    case Activation::identity:
      return fn(Identity{});
    case Activation::relu:
      return fn(Relu{});
    case Activation::gelu:
      return fn(Gelu{});
    case Activation::gelu_tanh:
      return fn(GeluTanh{});
    case Activation::silu:
      return fn(Silu{});
    case Activation::sigmoid:
      return fn(Sigmoid{});
    case Activation::tanh:
      return fn(Tanh{});
  }
  throw ConfigError(std::string(where) + ": " + std::to_string(static_cast<int>(kind)) +
                    " is not an Activation");
}

/// Returns the float kernel of an activation, or null if it has none and the loop over `f` runs.
template <class F>
kernels::ElementKernel forward_kernel(F) {
  if constexpr (std::is_same_v<F, Relu>) return kernels::element_kernel<kernels::ReluLanes>();
  if constexpr (std::is_same_v<F, Gelu>) return kernels::element_kernel<kernels::GeluLanes>();
  if constexpr (std::is_same_v<F, GeluTanh>)
    return kernels::element_kernel<kernels::GeluTanhLanes>();
  if constexpr (std::is_same_v<F, Sigmoid>) return kernels::element_kernel<kernels::SigmoidLanes>();
  if constexpr (std::is_same_v<F, Silu>) return kernels::element_kernel<kernels::SiluLanes>();
  return nullptr;
}
template <class F>
kernels::ElementKernel backward_kernel(F) {
  if constexpr (std::is_same_v<F, Relu>)
    return kernels::element_kernel<kernels::ReluBackwardLanes>();
  if constexpr (std::is_same_v<F, Gelu>)
    return kernels::element_kernel<kernels::GeluBackwardLanes>();
  if constexpr (std::is_same_v<F, GeluTanh>)
    return kernels::element_kernel<kernels::GeluTanhBackwardLanes>();
  if constexpr (std::is_same_v<F, Sigmoid>)
    return kernels::element_kernel<kernels::SigmoidBackwardLanes>();
  if constexpr (std::is_same_v<F, Silu>)
    return kernels::element_kernel<kernels::SiluBackwardLanes>();
  return nullptr;
}

/// Computes out_i = f(x_i) for n elements, or dy_i f'(x_i) unless dy is null. out may be x or dy.
template <class S, class F>
void map(F f, Index n, const S* x, const S* dy, S* out) {
  if constexpr (std::is_same_v<S, float>) {
    const auto kernel = dy == nullptr ? forward_kernel(f) : backward_kernel(f);
    if (kernel != nullptr) return kernel(n, x, dy == nullptr ? x : dy, out);
  }
  if (dy == nullptr) {
    for (Index i = 0; i < n; ++i) out[i] = f.value(x[i]);
  } else {
    for (Index i = 0; i < n; ++i) out[i] = f.backward(x[i], dy[i]);
  }
}

struct Name {
  std::string_view name;
  Activation kind;
};
// HuggingFace's names (`hidden_act` of a config.json). The first name of each activation is the one
// that is written.
inline constexpr std::array<Name, 9> names{{
    {"linear", Activation::identity},
    {"relu", Activation::relu},
    {"gelu", Activation::gelu},
    {"gelu_pytorch_tanh", Activation::gelu_tanh},
    {"gelu_new", Activation::gelu_tanh},
    {"silu", Activation::silu},
    {"swish", Activation::silu},
    {"sigmoid", Activation::sigmoid},
    {"tanh", Activation::tanh},
}};

}  // namespace activations

/// Returns the activation that HuggingFace's configs call `name`; `linear` is the identity.
/// Throws: ConfigError that lists the known names.
/// Allocates: only to throw.
inline Activation activation_from_name(std::string_view name) {
  for (const auto& entry : activations::names) {
    if (entry.name == name) return entry.kind;
  }
  std::string known;
  for (const auto& entry : activations::names) {
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw ConfigError("activation_from_name: unknown activation " + in_quotes(name) +
                    ", expected one of " + known);
}

/// Returns HuggingFace's name of an activation, which `activation_from_name` reads back.
/// Throws: ConfigError for a value outside the enum.
inline std::string_view activation_name(Activation kind) {
  for (const auto& entry : activations::names) {
    if (entry.kind == kind) return entry.name;
  }
  throw ConfigError("activation_name: " + std::to_string(static_cast<int>(kind)) +
                    " is not an Activation");
}

/// Computes y = f(x) element by element; x and y are (T, F), of any size. y may be x itself.
///   identity x · relu max(x, 0) · sigmoid σ(x) = 1/(1 + e⁻ˣ) · silu x σ(x) · tanh
///   gelu x Φ(x) = ½ x (1 + erf(x/√2)) · gelu_tanh ½ x (1 + tanh(√(2/π)(x + 0.044715 x³)))
/// A NaN gives a NaN; so does −∞ in gelu, gelu_tanh and silu, as in PyTorch. For float, all but
/// tanh have kernels: sigmoid and silu within 4 units in the last place (silu is 0 below -88.7),
/// gelu and gelu_tanh within 6, and below -2 within 5e-7 of the result per unit of x². Splitting a
/// batch between its rows gives the same bits.
/// Throws: ShapeError; ConfigError for a value outside the enum; Error when y overlaps a part of x.
///   All before anything is written.
/// Allocates: nothing once the workers run.
/// Threads: shares rows between the workers.
/// Source: torch.nn.functional.
template <class S>
void activation_forward(Activation kind, In<S> x, Out<S> y) {
  expect_shape("activation_forward", "y", y, x.rows(), x.cols());
  expect_same_or_apart<S>("activation_forward", "y", y, "x", x);
  activations::visit(kind, "activation_forward", [&](auto f) {
    for_row_shares(x.rows(), x.cols(), [&](Index begin, Index end) {
      for (Index t = begin; t < end; ++t) {
        activations::map<S>(f, x.cols(), x.data() + t * x.outerStride(), nullptr,
                            y.data() + t * y.outerStride());
      }
    });
  });
}

/// Computes dx = dy ∘ f'(x), where x is the input of forward; all are (T, F). dx may be dy or x
/// itself. The derivative of relu is 0 at 0 and, as in PyTorch, 1 at a NaN.
/// Throws: as activation_forward; Error when dx overlaps a part of x or dy.
/// Allocates: as activation_forward.
template <class S>
void activation_backward(Activation kind, In<S> x, In<S> dy, Out<S> dx) {
  expect_shape("activation_backward", "dy", dy, x.rows(), x.cols());
  expect_shape("activation_backward", "dx", dx, x.rows(), x.cols());
  expect_same_or_apart<S>("activation_backward", "dx", dx, "x", x);
  expect_same_or_apart<S>("activation_backward", "dx", dx, "dy", dy);
  activations::visit(kind, "activation_backward", [&](auto f) {
    for_row_shares(x.rows(), x.cols(), [&](Index begin, Index end) {
      for (Index t = begin; t < end; ++t) {
        activations::map<S>(f, x.cols(), x.data() + t * x.outerStride(),
                            dy.data() + t * dy.outerStride(), dx.data() + t * dx.outerStride());
      }
    });
  });
}

}  // namespace lora
