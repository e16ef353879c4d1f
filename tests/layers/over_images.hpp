// A convolution as a layer from rows to rows, for what is checked of every layer.
#pragma once

#include <lora/layers/lora_conv2d.hpp>

namespace lora_test {

/// A layer and the size of its images, with the functions of a layer from rows to rows.
template <class S>
struct OverImages {
  using Scalar = S;
  using Tape = typename lora::LoRAConv2d<S>::Tape;
  lora::LoRAConv2d<S> conv;
  lora::ImageSize in;

  lora::Index in_features() const { return conv.in_channels() * in.pixels(); }
  lora::Index out_features() const {
    return conv.out_channels() * lora::conv2d_output(conv.options(), in).pixels();
  }
  void forward(lora::In<S> x, lora::Out<S> y, Tape* tape = nullptr,
               const lora::Pass& pass = {}) const {
    conv.forward(x, in, y, tape, pass);
  }
  void backward(lora::In<S> x, lora::In<S> dy, Tape& tape, lora::Matrix<S>* dx,
                lora::Accumulate accumulate = lora::Accumulate::no) {
    conv.backward(x, dy, tape, dx, accumulate);
  }
  template <class Fn>
  void for_each_parameter(const lora::NamePath& prefix, Fn&& fn) {
    conv.for_each_parameter(prefix, fn);
  }
};

}  // namespace lora_test
