// Lays out a convolution's input as a matrix (im2col), so that convolving is a product.
#pragma once

#include <lora/core/error.hpp>

#include <array>

namespace lora {

/// Options of a two-dimensional convolution, (vertical, horizontal), with PyTorch's meaning and
/// defaults.
struct Conv2dOptions {
  std::array<Index, 2> kernel = {1, 1};
  std::array<Index, 2> stride = {1, 1};
  std::array<Index, 2> padding = {0, 0};  ///< zeros on each side
  std::array<Index, 2> dilation = {1, 1};
  Index groups = 1;
};

/// Height and width of one image.
struct ImageSize {
  Index height = 0, width = 0;
  Index pixels() const { return height * width; }
};

namespace detail {
/// The largest option and image side. No sum below can overflow with it.
inline constexpr Index largest_side = (Index{1} << 31) - 1;

/// Throws ConfigError unless kernel, stride and dilation are at least 1, padding at least 0, and
/// all below 2^31.
inline void check_options(const Conv2dOptions& o) {
  for (const std::size_t k : {0u, 1u}) {
    const auto is = [](Index n, Index least) { return n >= least && n <= largest_side; };
    if (is(o.kernel[k], 1) && is(o.stride[k], 1) && is(o.dilation[k], 1) && is(o.padding[k], 0))
      continue;
    throw ConfigError(
        "LoRAConv2d: kernel, stride and dilation must be at least 1 and padding at least 0, "
        "and all below 2^31; they are " +
        std::to_string(o.kernel[k]) + ", " + std::to_string(o.stride[k]) + ", " +
        std::to_string(o.dilation[k]) + " and " + std::to_string(o.padding[k]));
  }
}
}  // namespace detail

/// Elements of an image: channels · height · width.
/// Throws: ShapeError if the number does not fit into an Index.
inline Index image_elements(Index channels, ImageSize size) {
  const Index elements = product_of_sizes({channels, size.height, size.width});
  if (elements < 0) {
    check_shape(false, "LoRAConv2d", "image", size.height, size.width,
                "one whose elements over " + std::to_string(channels) + " channels can be counted");
  }
  return elements;
}

/// Computes the size of the result:
/// floor((n + 2 padding - dilation (kernel - 1) - 1) / stride) + 1 in each direction.
/// Throws: ShapeError if the kernel does not fit, or a side of the image is negative or not below
///   2^31; ConfigError for invalid options.
inline ImageSize conv2d_output(const Conv2dOptions& o, ImageSize in) {
  detail::check_options(o);
  for (const Index side : {in.height, in.width}) {
    if (side >= 0 && side <= detail::largest_side) continue;
    check_shape(false, "LoRAConv2d", "image", in.height, in.width, "sides from 0 to below 2^31");
  }
  const auto along = [](Index n, Index k, Index stride, Index padding, Index dilation) {
    const Index room = n + 2 * padding - dilation * (k - 1) - 1;
    return room < 0 ? Index{0} : room / stride + 1;
  };
  const ImageSize out{along(in.height, o.kernel[0], o.stride[0], o.padding[0], o.dilation[0]),
                      along(in.width, o.kernel[1], o.stride[1], o.padding[1], o.dilation[1])};
  if (out.height <= 0 || out.width <= 0) {  // build the text only when it is needed
    check_shape(false, "LoRAConv2d", "image", in.height, in.width,
                "an image that the kernel fits into");
  }
  return out;
}

/// Calls fn(pixel, column, channel, y, x) for each entry of the (out pixels, channels · kernel)
/// matrix that comes from inside the image; the others are zero. The entry at (pixel, column) is
/// the input at (channel, y, x).
template <class Fn>
void for_each_column_entry(const Conv2dOptions& o, Index channels, ImageSize in, ImageSize out,
                           Fn&& fn) {
  for (Index oy = 0; oy < out.height; ++oy) {
    for (Index ox = 0; ox < out.width; ++ox) {
      const Index pixel = oy * out.width + ox;
      for (Index c = 0, column = 0; c < channels; ++c) {
        for (Index ky = 0; ky < o.kernel[0]; ++ky) {
          const Index y = oy * o.stride[0] + ky * o.dilation[0] - o.padding[0];
          for (Index kx = 0; kx < o.kernel[1]; ++kx, ++column) {
            const Index x = ox * o.stride[1] + kx * o.dilation[1] - o.padding[1];
            if (y >= 0 && y < in.height && x >= 0 && x < in.width) fn(pixel, column, c, y, x);
          }
        }
      }
    }
  }
}

/// Fills row i of columns (out pixels, channels · kernel) with the inputs that output pixel i
/// depends on. The image is (channels, height, width).
template <class S>
void image_to_columns(const Conv2dOptions& o, Index channels, ImageSize in, ImageSize out,
                      const S* image, Matrix<S>& columns) {
  set_zero(columns, out.pixels(), channels * o.kernel[0] * o.kernel[1]);
  for_each_column_entry(o, channels, in, out,
                        [&](Index pixel, Index column, Index c, Index y, Index x) {
                          columns(pixel, column) = image[(c * in.height + y) * in.width + x];
                        });
}

/// Applies the transpose of image_to_columns: adds each entry of columns to the input it came from.
template <class S>
void add_columns_to_image(const Conv2dOptions& o, Index channels, ImageSize in, ImageSize out,
                          const Matrix<S>& columns, S* image) {
  for_each_column_entry(o, channels, in, out,
                        [&](Index pixel, Index column, Index c, Index y, Index x) {
                          image[(c * in.height + y) * in.width + x] += columns(pixel, column);
                        });
}

}  // namespace lora
