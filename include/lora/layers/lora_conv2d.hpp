// A frozen two-dimensional convolution with named low-rank adapters.
#pragma once

#include <lora/core/overlap.hpp>
#include <lora/layers/adapted_weight.hpp>
#include <lora/layers/image_columns.hpp>
#include <lora/layers/output_scaling.hpp>

namespace lora {

/// Computes y = conv(x, W) + b + Σ s_a (conv1x1(conv(drop_a(x), A_a), B_a) + bias_a) over the
/// active adapters a.
///
/// Each row of x (N, C·height·width) is an image, and the same row of y (N, O·out height·out width)
/// its result. W is (O, C/groups·kh·kw). A (R, C·kh·kw) has the base's kernel, stride, padding and
/// dilation, and one group. B (O, R/groups) has the base's groups. With groups, the layer keeps a
/// second copy of the frozen weight, cut into the groups, and cannot merge adapters, because A
/// spans the groups. Otherwise as LoRALinear.
/// Source: PEFT's lora.Conv2d; but A follows the base's dilation, where PEFT ignores it and fails.
template <class S>
class LoRAConv2d : public AdaptedWeight<S> {
  using Base = AdaptedWeight<S>;

 public:
  /// What backward needs from one forward, and the workspace for one image. Reused from step to
  /// step.
  struct Tape : LayerTape<S> {
    ImageSize in, out;
    Pass pass;
    Matrix<S> columns, dropped_columns, d_columns, dropped, y_t, dy_t;
    View<S> base_gradient;  ///< in backward: gradient of the base's output for one image
  };

  LoRAConv2d() = default;
  /// Creates a layer without adapters from W (O, C/groups·kh·kw), which has the element order of
  /// PyTorch's (O, C/groups, kh, kw), and bias (1, O) or empty.
  /// Throws: ConfigError for options below 1 (padding: below 0) and groups that do not divide O;
  ///   ShapeError if W does not fit the kernel, and for the bias.
  explicit LoRAConv2d(Matrix<S> weight, const Conv2dOptions& options, Matrix<S> bias = {})
      : Base(LayerKind::convolution, FrozenWeight<S>(weight), checked_shape(weight, options, bias),
             bias, options.groups),
        options_(options) {
    if (options_.groups == 1) return;
    this->refuse_merging(
        "a convolution with groups cannot merge an adapter, whose A spans the groups");
  }

  Index in_channels() const { return this->weight().cols() / kernel_size() * options_.groups; }
  Index out_channels() const { return this->weight().rows(); }
  const Conv2dOptions& options() const { return options_; }
  const char* module_type() const { return "Conv2d"; }

  /// Adds an adapter, neither active nor trainable.
  /// Throws: as LoRALinear::add_adapter; ConfigError if r is not a multiple of groups, and for DoRA
  ///   with several groups.
  void add_adapter(std::string name, const AdapterOptions& options = {}) {
    this->adapters().add(new_adapter(name, options));
  }
  /// See LoRALinear::new_adapter.
  Adapter<S> new_adapter(const std::string& name, const AdapterOptions& options = {}) const {
    this->expect_frozen_base("LoRAConv2d::add_adapter");
    Adapter<S> adapter = make_adapter<S>(name, options);
    if (options_.groups != 1 && adapter.scales_output()) {
      throw ConfigError(
          "adapter \"" + name +
          "\": DoRA is not defined for a convolution with groups, where A spans the groups "
          "and W does not");
    }
    if (options.r % options_.groups != 0) {
      throw ConfigError("adapter \"" + name + "\": r is " + std::to_string(options.r) +
                        ", expected a multiple of the " + std::to_string(options_.groups) +
                        " groups");
    }
    const Index c = in_channels(), fan_in = c * kernel_size(),
                r_group = options.r / options_.groups;
    adapter.A =
        Parameter<S>(Matrix<S>(options.r, fan_in),
                     std::vector<Index>{options.r, c, options_.kernel[0], options_.kernel[1]});
    adapter.B = Parameter<S>(Matrix<S>(out_channels(), r_group),
                             std::vector<Index>{out_channels(), r_group, 1, 1});
    if (options.lora_bias) adapter.bias = Parameter<S>::vector(Matrix<S>::Zero(1, out_channels()));
    initialize_linear_adapter(adapter, options, fan_in);
    begin_variant(adapter, options, this->base_map());
    return adapter;
  }

  /// Computes y for images of size `in`. tape = nullptr: inference. y must not overlap x.
  /// Throws: ShapeError; Error if y overlaps x, and for pass.adapter_names.
  /// Allocates: when sizes change; without a tape, the workspace.
  void forward(In<S> x, ImageSize in, Out<S> y, Tape* tape = nullptr, const Pass& pass = {}) const {
    if (tape != nullptr) tape->rows = -1;  // an error leaves a tape that backward refuses
    const ImageSize out = conv2d_output(options_, in);
    expect_shape("LoRAConv2d::forward", "x", x, -1, image_elements(in_channels(), in));
    expect_shape("LoRAConv2d::forward", "y", y, x.rows(), image_elements(out_channels(), out));
    image_elements(x.rows(), out);  // the rows of h
    expect_apart<S>("LoRAConv2d::forward", "y", y, "x", x);
    if (!pass.adapter_names.empty())
      throw Error("LoRAConv2d::forward: adapter_names is not supported");
    const auto run = [&](Tape& used, bool keep) {
      start(used, x.rows(), in, out, pass, keep);
      for (Index n = 0; n < x.rows(); ++n) {
        image_to_columns<S>(options_, in_channels(), in, out, x.row(n).data(), used.columns);
        set_size(used.y_t, out.pixels(), out_channels());
        for (Index g = 0; g < options_.groups; ++g) base_forward(g, used);
        for (std::size_t i = 0; i < used.used; ++i)
          adapter_forward(i, x.row(n).data(), n, used, keep);
        this->add_bias(used.y_t, this->acting_copy());
        Eigen::Map<Matrix<S>>(y.row(n).data(), out_channels(), out.pixels()) = used.y_t.transpose();
      }
      used.rows = x.rows();
    };
    if (tape != nullptr) return run(*tape, true);
    Tape scratch;
    run(scratch, false);
  }

  /// Computes the gradients of LoRALinear::backward over the columns of each image;
  /// dx is (N, C·height·width).
  /// Throws: as LoRALinear::backward.
  void backward(In<S> x, In<S> dy, Tape& tape, Matrix<S>* dx,
                Accumulate accumulate = Accumulate::no) {
    tape.expect_forward("LoRAConv2d::backward");
    expect_shape("LoRAConv2d::backward", "x", x, tape.rows, in_channels() * tape.in.pixels());
    expect_shape("LoRAConv2d::backward", "dy", dy, tape.rows, out_channels() * tape.out.pixels());
    tape.expect_current("LoRAConv2d::backward", this->acting_state());
    if (dx != nullptr) {
      expect_apart<S>("LoRAConv2d::backward", "dx", *dx, "x", x);
      expect_apart<S>("LoRAConv2d::backward", "dx", *dx, "dy", dy);
    }
    if (dx != nullptr && accumulate == Accumulate::yes) {
      expect_shape("LoRAConv2d::backward", "dx", *dx, x.rows(), x.cols());
    } else if (dx != nullptr) {
      set_zero(*dx, x.rows(), x.cols());
    }
    prepare_backward(tape, dx != nullptr);
    TrainedCopy<S>* copy = this->acting_copy();
    Parameter<S>& bias = copy != nullptr ? copy->bias : this->bias();
    for (Index n = 0; n < x.rows(); ++n) {
      image_to_columns<S>(options_, in_channels(), tape.in, tape.out, x.row(n).data(),
                          tape.columns);
      tape.dy_t = Eigen::Map<const Matrix<S>>(dy.row(n).data(), out_channels(), tape.out.pixels())
                      .transpose();
      if (bias.trainable) bias.grad += tape.dy_t.colwise().sum();
      const Index pixels = tape.out.pixels();
      tape.base_gradient =
          scaled_gradients<S>(this->adapters(), tape, n * pixels, tape.dy_t, tape.pass);
      S* image_gradient = dx != nullptr ? dx->data() + n * dx->cols() : nullptr;
      for (Index g = 0; g < options_.groups; ++g)
        base_backward(g, copy, image_gradient != nullptr, tape);
      if (image_gradient != nullptr) {
        add_columns_to_image<S>(options_, in_channels(), tape.in, tape.out, tape.d_columns,
                                image_gradient);
      }
      for (std::size_t i = 0; i < tape.used; ++i)
        adapter_backward(i, x.row(n).data(), n, tape, image_gradient);
    }
  }

 private:
  Index kernel_size() const { return options_.kernel[0] * options_.kernel[1]; }
  Index group_rows() const { return out_channels() / options_.groups; }
  Index group_columns() const { return this->weight().cols(); }

  static std::vector<Index> checked_shape(const Matrix<S>& weight, const Conv2dOptions& o,
                                          const Matrix<S>& bias) {
    detail::check_options(o);
    const Index kernel = o.kernel[0] * o.kernel[1];
    if (o.groups < 1 || weight.rows() % o.groups != 0) {
      throw ConfigError("LoRAConv2d: groups is " + std::to_string(o.groups) +
                        ", expected a divisor of the " + std::to_string(weight.rows()) +
                        " output channels");
    }
    check_shape(weight.cols() % kernel == 0, "LoRAConv2d", "weight", weight.rows(), weight.cols(),
                "(O, channels / groups * " + std::to_string(kernel) + ")");
    check_shape(product_of_sizes({weight.cols(), o.groups}) >= 0, "LoRAConv2d", "weight",
                weight.rows(), weight.cols(),
                "one whose inputs can be counted over " + std::to_string(o.groups) + " groups");
    if (bias.size() != 0) expect_shape("LoRAConv2d", "bias", bias, 1, weight.rows());
    return {weight.rows(), weight.cols() / kernel, o.kernel[0], o.kernel[1]};
  }

  void start(Tape& tape, Index images, ImageSize in, ImageSize out, const Pass& pass,
             bool keep) const {
    tape.begin(this->acting_state());
    tape.in = in;
    tape.out = out;
    tape.pass = pass;
    if (!this->adapters_act()) return;
    for (const std::string& name : this->adapters().active()) {
      const Adapter<S>& adapter = this->adapters().get(name);
      AdapterTape<S>& own = tape.next(adapter);
      set_size(own.h, images * out.pixels(), adapter.r);
      adapter.if_scales_output([&](const auto& variant) {
        variant.start(adapter, this->base_map(), images * out.pixels(), pass.training,
                      keep || adapter.dropout_of(pass).active(), own.output);
      });
    }
  }

  /// Allocates all that backward needs, before it changes any gradient.
  void prepare_backward(Tape& tape, bool need_dx) {
    const Index pixels = tape.out.pixels(), all = in_channels() * kernel_size();
    set_size(tape.columns, pixels, all);
    set_size(tape.dy_t, pixels, out_channels());
    if (need_dx) {
      set_size(tape.d_columns, pixels, all);
      if (this->acting_copy() == nullptr) this->group_weight(0).prepare_multiply_transposed(pixels);
    }
    for (std::size_t i = 0; i < tape.used; ++i) {
      const Adapter<S>& adapter = this->adapters().by_id(tape.adapters[i].id);
      set_size(tape.adapters[i].dh, pixels, adapter.r);
      if (!adapter.dropout_of(tape.pass).active()) continue;
      set_size(tape.dropped, 1, in_channels() * tape.in.pixels());
      set_size(tape.dropped_columns, pixels, all);
    }
  }

  void base_forward(Index g, Tape& tape) const {
    const auto columns = tape.columns.middleCols(g * group_columns(), group_columns());
    auto y = tape.y_t.middleCols(g * group_rows(), group_rows());
    if (const TrainedCopy<S>* copy = this->acting_copy()) {
      const View<S> w = View<S>(copy->weight.value).middle_rows(g * group_rows(), group_rows());
      product<S>(Eigen::Ref<const Matrix<S>>(columns), w.transposed(),
                 MutableView<S>(tape.y_t).middle_cols(g * group_rows(), group_rows()));
    } else {
      this->group_weight(g).multiply(columns, y);
    }
  }

  /// The adapter's input: the image's columns, or those of the image after dropout.
  const Matrix<S>& adapter_columns(const Dropout& dropout, const S* image, Index n,
                                   Tape& tape) const {
    if (!dropout.active()) return tape.columns;
    set_size(tape.dropped, 1, in_channels() * tape.in.pixels());
    dropout.row(tape.pass.first_row + n, tape.dropped.cols(), image, tape.dropped.data(),
                Accumulate::no);
    image_to_columns<S>(options_, in_channels(), tape.in, tape.out, tape.dropped.data(),
                        tape.dropped_columns);
    return tape.dropped_columns;
  }

  /// Computes h = s · columns Aᵀ, adds h_g B_gᵀ to each group g of y, and lets the variant scale y.
  void adapter_forward(std::size_t i, const S* image, Index n, Tape& tape, bool keep) const {
    AdapterTape<S>& own = tape.adapters[i];
    const Adapter<S>& adapter = this->adapters().by_id(own.id);
    const Matrix<S>& columns = adapter_columns(adapter.dropout_of(tape.pass), image, n, tape);
    const Index pixels = tape.out.pixels(), r = adapter.r / options_.groups;
    product<S>(columns, View<S>(adapter.A.value).transposed(),
               MutableView<S>(own.h).middle_rows(n * pixels, pixels));
    own.h.middleRows(n * pixels, pixels) *= adapter.scale();
    for (Index g = 0; g < options_.groups; ++g) {
      product<S>(View<S>(own.h).middle_rows(n * pixels, pixels).middle_cols(g * r, r),
                 View<S>(adapter.B.value).middle_rows(g * group_rows(), group_rows()).transposed(),
                 MutableView<S>(tape.y_t).middle_cols(g * group_rows(), group_rows()),
                 Accumulate::yes);
    }
    if (!adapter.bias.empty()) {
      for (Index p = 0; p < pixels; ++p) tape.y_t.row(p) += adapter.scale() * adapter.bias.value;
    }
    adapter.if_scales_output([&](const auto& variant) {
      const bool dropped = adapter.dropout_of(tape.pass).active();
      if (dropped) {  // u = W drop(x) + term
        const LowRank<S> term{View<S>(own.h).middle_rows(n * pixels, pixels),
                              View<S>(adapter.B.value).transposed(), 0};
        this->weight().multiply(columns, own.output.u.middleRows(n * pixels, pixels), {&term, 1});
      }
      variant.finish(own.output, n * pixels, dropped, keep, MutableView<S>(tape.y_t));
    });
  }

  void base_backward(Index g, TrainedCopy<S>* copy, bool need_dx, Tape& tape) {
    const View<S> all = tape.base_gradient;
    const View<S> dy_view = all.middle_cols(g * group_rows(), group_rows());
    if (copy != nullptr && copy->weight.trainable) {
      product<S>(dy_view.transposed(),
                 View<S>(tape.columns).middle_cols(g * group_columns(), group_columns()),
                 MutableView<S>(copy->weight.grad).middle_rows(g * group_rows(), group_rows()),
                 Accumulate::yes);
    }
    if (!need_dx) return;
    set_size(tape.d_columns, tape.columns.rows(), tape.columns.cols());
    if (copy != nullptr) {
      product<S>(dy_view, View<S>(copy->weight.value).middle_rows(g * group_rows(), group_rows()),
                 MutableView<S>(tape.d_columns).middle_cols(g * group_columns(), group_columns()));
    } else {
      this->group_weight(g).multiply_transposed(
          Eigen::Map<const Matrix<S>>(all.data, all.rows, all.cols)
              .middleCols(g * group_rows(), group_rows()),
          tape.d_columns.middleCols(g * group_columns(), group_columns()));
    }
  }

  /// Computes dB_g += dy_gᵀ h_g,  dh_g = s dy_g B_g,  dA += dhᵀ columns,  dcolumns = dh A, and adds
  /// dcolumns to the image's gradient through the dropout mask.
  void adapter_backward(std::size_t i, const S* image, Index n, Tape& tape, S* image_gradient) {
    AdapterTape<S>& own = tape.adapters[i];
    Adapter<S>& adapter = this->adapters().by_id(own.id);
    const Dropout dropout = adapter.dropout_of(tape.pass);
    const Index pixels = tape.out.pixels(), r = adapter.r / options_.groups;
    set_size(own.dh, pixels, adapter.r);
    for (Index g = 0; g < options_.groups; ++g) {
      const View<S> dy = own.g.middle_cols(g * group_rows(), group_rows());
      const View<S> h = View<S>(own.h).middle_rows(n * pixels, pixels).middle_cols(g * r, r);
      if (adapter.B.trainable) {
        product<S>(dy.transposed(), h,
                   MutableView<S>(adapter.B.grad).middle_rows(g * group_rows(), group_rows()),
                   Accumulate::yes);
      }
      product<S>(dy, View<S>(adapter.B.value).middle_rows(g * group_rows(), group_rows()),
                 MutableView<S>(own.dh).middle_cols(g * r, r));
    }
    own.dh *= adapter.scale();
    if (adapter.bias.trainable) {
      const Eigen::Map<const Matrix<S>> dy(own.g.data, own.g.rows, own.g.cols);
      adapter.bias.grad += adapter.scale() * dy.colwise().sum();
    }
    if (adapter.A.trainable) {
      product<S>(View<S>(own.dh).transposed(), adapter_columns(dropout, image, n, tape),
                 adapter.A.grad, Accumulate::yes);
    }
    if (image_gradient == nullptr) return;
    set_size(tape.d_columns, pixels, adapter.A.value.cols());
    product<S>(own.dh, adapter.A.value, tape.d_columns);
    if (dropout.active()) {
      adapter.if_scales_output([&](const auto& variant) {
        variant.dropped_gradient(own.output, n * pixels, own.dy);
        this->weight().multiply_transposed(own.output.u.middleRows(n * pixels, pixels),
                                           tape.d_columns, Accumulate::yes);
      });
    }
    if (!dropout.active()) {
      add_columns_to_image<S>(options_, in_channels(), tape.in, tape.out, tape.d_columns,
                              image_gradient);
      return;
    }
    set_zero(tape.dropped, 1, in_channels() * tape.in.pixels());
    add_columns_to_image<S>(options_, in_channels(), tape.in, tape.out, tape.d_columns,
                            tape.dropped.data());
    dropout.row(tape.pass.first_row + n, tape.dropped.cols(), tape.dropped.data(), image_gradient,
                Accumulate::yes);
  }

  Conv2dOptions options_;
};

}  // namespace lora
