// A convolution's input as a matrix, against the definition.
#include <lora/layers/image_columns.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"

namespace image_columns_test {
using namespace lora;
using namespace lora_test;

std::vector<Conv2dOptions> many_options() {
  return {{},
          {{3, 3}, {1, 1}, {1, 1}, {1, 1}, 1},
          {{3, 3}, {2, 2}, {1, 1}, {1, 1}, 1},
          {{2, 3}, {1, 2}, {0, 1}, {1, 1}, 1},
          {{3, 2}, {2, 1}, {2, 0}, {2, 3}, 1},
          {{1, 5}, {3, 1}, {0, 4}, {1, 1}, 1}};
}

TEST(ImageColumns, SizeOfTheResult) {
  const auto size = [](Conv2dOptions o, ImageSize in) {
    const ImageSize out = conv2d_output(o, in);
    return std::vector<Index>{out.height, out.width};
  };
  EXPECT_EQ(size({}, {7, 6}), (std::vector<Index>{7, 6}));
  EXPECT_EQ(size({{3, 3}, {2, 2}, {1, 1}, {1, 1}, 1}, {7, 6}), (std::vector<Index>{4, 3}));
  EXPECT_EQ(size({{3, 3}, {1, 1}, {0, 0}, {2, 2}, 1}, {7, 6}), (std::vector<Index>{3, 2}));
  EXPECT_EQ(size({{3, 3}, {1, 1}, {0, 0}, {1, 1}, 1}, {3, 3}), (std::vector<Index>{1, 1}));
  EXPECT_EQ((ImageSize{7, 6}.pixels()), 42);
}

TEST(ImageColumns, AKernelThatDoesNotFitIsRefused) {
  EXPECT_TRUE(throws<ShapeError>(
      [] {
        conv2d_output({{3, 3}, {1, 1}, {0, 0}, {1, 1}, 1}, {2, 9});
      },
      {"LoRAConv2d: image is (2, 9), expected an image that the kernel fits into"}));
  EXPECT_TRUE(throws<ShapeError>(
      [] {
        conv2d_output({{1, 3}, {1, 1}, {0, 0}, {1, 2}, 1}, {9, 4});
      },
      {"image is (9, 4)"}));
  EXPECT_TRUE(throws<ShapeError>([] { conv2d_output({}, {0, 4}); }, {"image is (0, 4)"}));
  EXPECT_TRUE(throws<ShapeError>([] { conv2d_output({}, {-3, 4}); }, {"image is (-3, 4)"}));
}

TEST(ImageColumns, EachRowIsWhatOneOutputPixelSees) {
  const Index channels = 3;
  const ImageSize in{7, 6};
  const Matrix<double> image = random_matrix(channels, in.pixels(), "image");
  for (const Conv2dOptions& o : many_options()) {
    const ImageSize out = conv2d_output(o, in);
    Matrix<double> columns = Matrix<double>::Constant(1, 1, 9);  // what was there is forgotten
    image_to_columns(o, channels, in, out, image.data(), columns);
    ASSERT_EQ(columns.rows(), out.pixels());
    ASSERT_EQ(columns.cols(), channels * o.kernel[0] * o.kernel[1]);
    for (Index oy = 0; oy < out.height; ++oy) {
      for (Index ox = 0; ox < out.width; ++ox) {
        for (Index c = 0; c < channels; ++c) {
          for (Index ky = 0; ky < o.kernel[0]; ++ky) {
            for (Index kx = 0; kx < o.kernel[1]; ++kx) {
              const Index y = oy * o.stride[0] - o.padding[0] + ky * o.dilation[0];
              const Index x = ox * o.stride[1] - o.padding[1] + kx * o.dilation[1];
              const bool inside = y >= 0 && y < in.height && x >= 0 && x < in.width;
              EXPECT_EQ(columns(oy * out.width + ox, (c * o.kernel[0] + ky) * o.kernel[1] + kx),
                        inside ? image(c, y * in.width + x) : 0.0);
            }
          }
        }
      }
    }
  }
}

TEST(ImageColumns, TheWayBackIsTheTransposedMap) {
  const Index channels = 2;
  const ImageSize in{7, 6};
  const Matrix<double> image = random_matrix(channels, in.pixels(), "image"),
                       before = random_matrix(channels, in.pixels(), "b");
  for (const Conv2dOptions& o : many_options()) {
    const ImageSize out = conv2d_output(o, in);
    Matrix<double> columns;
    image_to_columns(o, channels, in, out, image.data(), columns);
    const Matrix<double> d_columns = random_matrix(columns.rows(), columns.cols(), "d");
    Matrix<double> back = before;
    add_columns_to_image(o, channels, in, out, d_columns, back.data());
    // <columns(image), d> = <image, columnsᵀ(d)>, each side a sum of at most that many products.
    const double left = columns.cwiseProduct(d_columns).sum(),
                 right = image.cwiseProduct(back - before).sum();
    const double bound =
        2 * static_cast<double>(columns.size() + 8) * 0x1.0p-53 *
        (columns.cwiseAbs().cwiseProduct(d_columns.cwiseAbs()).sum() + image.cwiseAbs().sum() * 8);
    EXPECT_LE(std::abs(left - right), bound);
  }
}

TEST(ImageColumns, SizesThatOverflowAreRefused) {
  constexpr Index most = std::numeric_limits<Index>::max();
  const auto of_image = [](ImageSize in) { return conv2d_output({}, in); };
  const char* sides = "sides from 0 to below 2^31";
  for (const ImageSize in : {ImageSize{-1, 3}, ImageSize{3, -1}, ImageSize{Index{1} << 31, 1},
                             ImageSize{1, most}, ImageSize{most, most}})
    EXPECT_TRUE(throws<ShapeError>([&] { of_image(in); }, {sides}));
  Conv2dOptions padded{.padding = {5, 5}};
  EXPECT_TRUE(throws<ShapeError>(
      [&] {
        conv2d_output(padded, {-3, 3});
      },
      {sides}))
      << "padding would make a result of it";
  for (const auto member : {&Conv2dOptions::kernel, &Conv2dOptions::stride, &Conv2dOptions::padding,
                            &Conv2dOptions::dilation}) {
    for (const Index wrong : {Index{-1}, Index{1} << 31, most}) {
      Conv2dOptions options;
      (options.*member)[1] = wrong;
      EXPECT_TRUE(throws<ConfigError>(
          [&] {
            conv2d_output(options, {4, 4});
          },
          {"all below 2^31", std::to_string(wrong).c_str()}));
    }
  }
  Conv2dOptions largest{.kernel = {2, 2},
                        .padding = {(Index{1} << 31) - 1, (Index{1} << 31) - 1},
                        .dilation = {(Index{1} << 31) - 1, (Index{1} << 31) - 1}};
  EXPECT_GT(conv2d_output(largest, {(Index{1} << 31) - 1, 4}).height, 0);
  EXPECT_EQ(image_elements(3, {4, 5}), 60);
  EXPECT_TRUE(throws<ShapeError>(
      [] {
        image_elements(Index{1} << 32, {1 << 16, 1 << 16});
      },
      {"over 4294967296 channels"}));
}

}  // namespace image_columns_test
