// The digits of the examples: files read strictly, our own pen, shifts, and ways to take a part.
#include "../../examples/support/digits.hpp"
#include "support/messages.hpp"
#include "support/shared.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <set>

namespace digits_test {
using examples::DigitSet;
using examples::Index;
using lora_test::message_of;
using Bytes = std::vector<unsigned char>;

void append_u32(Bytes& bytes, std::uint32_t value) {
  for (const int shift : {24, 16, 8, 0}) {
    bytes.push_back(static_cast<unsigned char>(value >> shift));
  }
}

Bytes idx_images(std::uint32_t n, std::uint32_t h, std::uint32_t w, std::size_t body) {
  Bytes bytes;
  for (const std::uint32_t value : {0x803u, n, h, w}) append_u32(bytes, value);
  for (std::size_t i = 0; i < body; ++i) bytes.push_back(static_cast<unsigned char>(i * 37));
  return bytes;
}

Bytes idx_labels(std::uint32_t n, const Bytes& body) {
  Bytes bytes;
  append_u32(bytes, 0x801);
  append_u32(bytes, n);
  bytes.insert(bytes.end(), body.begin(), body.end());
  return bytes;
}

Bytes gzipped(const Bytes& bytes) {
  z_stream z{};
  EXPECT_EQ(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  Bytes out(deflateBound(&z, bytes.size()) + 64);
  Bytes in = bytes;
  z.next_in = in.data();
  z.avail_in = static_cast<unsigned>(in.size());
  z.next_out = out.data();
  z.avail_out = static_cast<unsigned>(out.size());
  EXPECT_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

class DigitFiles : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& name, const Bytes& bytes) {
    std::ofstream file(folder_.path / name, std::ios::binary);
    for (const unsigned char byte : bytes) file.put(static_cast<char>(byte));
    return folder_.path / name;
  }
  std::filesystem::path write(const std::string& name, const std::string& text) {
    return write(name, Bytes(text.begin(), text.end()));
  }
  std::string images_error(const Bytes& bytes) {
    const auto path = write("images", bytes);
    const std::string text =
        message_of<lora::FormatError>([&] { examples::read_idx_images(path); });
    EXPECT_HAS(text, path.string());
    return text;
  }
  std::string labels_error(const Bytes& bytes) {
    const auto path = write("labels", bytes);
    const std::string text =
        message_of<lora::FormatError>([&] { examples::read_idx_labels(path); });
    EXPECT_HAS(text, path.string());
    return text;
  }
  std::string optdigits_error(const std::string& content) {
    const auto path = write("opt.txt", content);
    const std::string text = message_of<lora::FormatError>([&] { examples::read_optdigits(path); });
    EXPECT_HAS(text, path.string());
    return text;
  }
  lora_test::TemporaryFolder folder_;
};

std::string optdigits_line(int block, int digit) {
  std::string line;
  for (int i = 0; i < 64; ++i) line += std::to_string(block) + ",";
  return line + std::to_string(digit);
}

TEST_F(DigitFiles, IdxIsReadPlainAndGzipped) {
  const Bytes images = idx_images(3, 5, 7, 105), labels = idx_labels(3, {0, 9, 4});
  for (const bool packed : {false, true}) {
    const DigitSet set = examples::read_mnist(write("i", packed ? gzipped(images) : images),
                                              write("l", packed ? gzipped(labels) : labels));
    ASSERT_EQ(set.size(), 3);
    EXPECT_EQ(set.height, 5);
    EXPECT_EQ(set.width, 7);
    EXPECT_EQ(set.source, "i");
    EXPECT_EQ(set.labels, (std::vector<std::int64_t>{0, 9, 4}));
    for (Index i = 0; i < 105; ++i) {
      EXPECT_EQ(set.images.data()[i], static_cast<float>((i * 37) % 256) / 255.0f);
    }
  }
}

TEST_F(DigitFiles, IdxHeaderLiesAreNamed) {
  EXPECT_HAS(images_error(idx_labels(3, {1, 2, 3})), "magic is 2049, expected 2051");
  EXPECT_HAS(labels_error(idx_images(1, 2, 2, 4)), "magic is 2051, expected 2049");
  EXPECT_HAS(images_error({}), "ends inside magic, expected 4 bytes and found 0");
  EXPECT_HAS(images_error({0, 0, 8, 3, 0, 0}), "ends inside number of images");
  EXPECT_HAS(images_error(idx_images(0, 2, 2, 0)), "number of images is 0, expected 1 to");
  EXPECT_HAS(images_error(idx_images(1, 0, 2, 0)), "number of rows is 0, expected 1 to 1024");
  EXPECT_HAS(images_error(idx_images(1, 2, 4000, 0)), "number of columns is 4000");
  EXPECT_HAS(labels_error(idx_labels(0xFFFFFFFFu, {})), "number of labels is 4294967295");
}

TEST_F(DigitFiles, IdxLengthMustBeTheHeaders) {
  EXPECT_HAS(images_error(idx_images(3, 5, 7, 104)), "3 images of 5 x 7 pixels (105 bytes)");
  EXPECT_HAS(images_error(idx_images(3, 5, 7, 106)), "the file has 122 bytes, expected 121");
  EXPECT_HAS(labels_error(idx_labels(3, {1, 2})), "3 labels (3 bytes)");
  EXPECT_HAS(images_error(gzipped(idx_images(3, 5, 7, 104))), "ends inside image 2 of 3");
  EXPECT_HAS(images_error(gzipped(idx_images(3, 5, 7, 106))), "more bytes follow image 2");
  EXPECT_HAS(labels_error(gzipped(idx_labels(3, {1, 2, 3, 4}))), "more bytes follow label 2");
}

TEST_F(DigitFiles, IdxAsksForNoMemoryThatTheFileCannotFill) {
  // 100 000 000 images of a mebibyte; then 200 million bytes promised by a gzip file of 40 or so.
  EXPECT_HAS(images_error(idx_images(100'000'000, 1024, 1024, 0)), "expected at most 268435456");
  EXPECT_HAS(images_error(gzipped(idx_images(200, 1000, 1000, 0))), "bytes compressed");
  // A bomb: ten mebibytes behind a header that speaks of four bytes are not unpacked.
  EXPECT_HAS(images_error(gzipped(idx_images(1, 2, 2, 10 << 20))), "more bytes follow image 0");
}

TEST_F(DigitFiles, DamagedGzipIsNamed) {
  const Bytes good = gzipped(idx_images(3, 5, 7, 105));
  Bytes wrong_sum = good;
  wrong_sum[good.size() - 8] ^= 1;
  EXPECT_HAS(images_error(wrong_sum), "gzip data are damaged");
  for (std::size_t length = 2; length < good.size(); ++length) {
    images_error(Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(length)));
  }
}

TEST_F(DigitFiles, LabelsAreDigitsAndAsManyAsImages) {
  EXPECT_HAS(labels_error(idx_labels(3, {0, 10, 2})), "label 1 is 10, expected 0 to 9");
  const auto images = write("i", idx_images(2, 2, 2, 8)), labels = write("l", idx_labels(1, {3}));
  const std::string text =
      message_of<lora::FormatError>([&] { examples::read_mnist(images, labels); });
  EXPECT_HAS(text, labels.string() + ": number of labels is 1, expected 2");
  EXPECT_HAS(text, images.string());
}

TEST_F(DigitFiles, UnreadableFilesAreIoErrors) {
  const auto nowhere = folder_.path / "nowhere";
  EXPECT_HAS(message_of<lora::IoError>([&] { examples::read_idx_images(nowhere); }),
             nowhere.string() + ": no such file");
  EXPECT_HAS(message_of<lora::IoError>([&] { examples::read_idx_labels(folder_.path); }),
             "not a regular file");
  EXPECT_HAS(message_of<lora::IoError>([&] { examples::read_optdigits(nowhere); }), "no such file");
  EXPECT_HAS(message_of<lora::IoError>([&] { examples::read_optdigits(folder_.path); }),
             "not a regular file");
  EXPECT_HAS(message_of<lora::IoError>([&] { examples::read_optdigits(nowhere / "below"); }),
             "below");
}

TEST_F(DigitFiles, FilesWithoutPermissionAreIoErrors) {
  const auto path = write("closed", optdigits_line(1, 2));
  std::filesystem::permissions(path, std::filesystem::perms::none);
  if (std::ifstream(path)) GTEST_SKIP() << "this user may read everything";
  EXPECT_HAS(message_of<lora::IoError>([&] { examples::read_optdigits(path); }),
             "cannot be opened");
  EXPECT_HAS(message_of<lora::IoError>([&] { examples::read_idx_images(path); }),
             "cannot be opened");
}

TEST_F(DigitFiles, OptdigitsIsReadWithAndWithoutColumnNames) {
  const std::string lines = optdigits_line(16, 7) + "\r\n\n" + optdigits_line(4, 0);
  for (const std::string& names : {std::string(), std::string("Block 1,Block 2,Class\n")}) {
    const DigitSet set = examples::read_optdigits(write("o", names + lines));
    ASSERT_EQ(set.size(), 2);
    EXPECT_EQ(set.height, 8);
    EXPECT_EQ(set.width, 8);
    EXPECT_EQ(set.labels, (std::vector<std::int64_t>{7, 0}));
    EXPECT_TRUE((set.images.row(0).array() == 1.0f).all());
    EXPECT_TRUE((set.images.row(1).array() == 0.25f).all());
  }
}

TEST_F(DigitFiles, OptdigitsErrorsNameLineAndField) {
  const std::string good = optdigits_line(3, 1) + "\n";
  EXPECT_HAS(optdigits_error(good + optdigits_line(17, 1)),
             "opt.txt:2: block 1 is '17', expected an integer 0 to 16");
  EXPECT_HAS(optdigits_error(good + optdigits_line(-1, 1)), "block 1 is '-1'");
  EXPECT_HAS(optdigits_error(good + optdigits_line(2, 10)),
             "opt.txt:2: class is '10', expected an integer 0 to 9");
  EXPECT_HAS(optdigits_error(good + "1,2,3"), "opt.txt:2: 3 fields, expected 65");
  EXPECT_HAS(optdigits_error(good + optdigits_line(2, 1) + ",5"), "66 fields, expected 65");
  EXPECT_HAS(optdigits_error("1, 2"), "block 2 is ' 2'");
  EXPECT_HAS(optdigits_error("1,2.5"), "block 2 is '2.5'");
  EXPECT_HAS(optdigits_error("1,\x1b[31m"), "block 2 is '?[31m'");
  EXPECT_HAS(optdigits_error(std::string(1000, '7')), "block 1 is '77777777777777777777...'");
  EXPECT_HAS(optdigits_error(good + "names,again"), "opt.txt:2: block 1 is 'names'");
  EXPECT_HAS(optdigits_error(""), "no digit in the file");
  EXPECT_HAS(optdigits_error("Block 1\n"), "no digit in the file");
}

TEST_F(DigitFiles, OptdigitsRefusesAFileOfAbsurdLength) {
  const auto path = write("long", std::string("1"));
  std::filesystem::resize_file(path, examples::kMaxOptdigitsBytes + 1);  // sparse: takes no room
  EXPECT_HAS(message_of<lora::FormatError>([&] { examples::read_optdigits(path); }),
             "has 67108865 bytes, expected at most 67108864");
}

TEST(DigitsData, MnistTestFilesAreWhole) {
  LORA_NEEDS_SHARED("data/digits/t10k-images-idx3-ubyte.gz");
  const auto folder = lora_test::shared_dir() / "data/digits";
  const DigitSet set = examples::read_mnist(folder / "t10k-images-idx3-ubyte.gz",
                                            folder / "t10k-labels-idx1-ubyte.gz");
  EXPECT_EQ(set.size(), 10000);
  EXPECT_EQ(set.height, 28);
  EXPECT_EQ(set.width, 28);
  // The first ten labels of the well-known test set.
  EXPECT_EQ(std::vector<std::int64_t>(set.labels.begin(), set.labels.begin() + 10),
            (std::vector<std::int64_t>{7, 2, 1, 0, 4, 1, 4, 9, 5, 9}));
  EXPECT_EQ(set.images.minCoeff(), 0.0f);
  EXPECT_EQ(set.images.maxCoeff(), 1.0f);
}

TEST(DigitsData, OptdigitsHasTheCountsOfItsDescription) {
  LORA_NEEDS_SHARED("data/digits/optdigits.tra");
  const auto folder = lora_test::shared_dir() / "data/digits";
  const DigitSet train = examples::read_optdigits(folder / "optdigits.tra");
  const std::vector<int> expected = {376, 389, 380, 389, 387, 376, 377, 387, 380, 382};
  std::vector<int> counts(10);
  for (const std::int64_t label : train.labels) ++counts[static_cast<std::size_t>(label)];
  EXPECT_EQ(train.size(), 3823);
  EXPECT_EQ(counts, expected);
  EXPECT_EQ(examples::read_optdigits(folder / "optdigits.tes").size(), 1797);
}

DigitSet drawn(Index count, std::uint64_t seed = 0) {
  examples::DrawnOptions options;
  options.count = count;
  options.seed = seed;
  return examples::draw_digits(options);
}

TEST(DrawnDigits, AreTheSameForASeedAndAPrefixOfALongerSet) {
  const DigitSet a = drawn(40), b = drawn(40), longer = drawn(57), other = drawn(40, 1);
  EXPECT_TRUE(a.images == b.images);
  EXPECT_EQ(a.labels, b.labels);
  EXPECT_TRUE(a.images == longer.images.topRows(40));
  EXPECT_FALSE(a.images == other.images);
  EXPECT_NE(a.labels, other.labels);
}

TEST(DrawnDigits, AreBytesWithInkInTheMiddleAndEveryTenHoldAllDigits) {
  const DigitSet set = drawn(200);
  for (Index n = 0; n < set.size(); n += 10) {
    const auto first = set.labels.begin() + n;
    EXPECT_EQ(std::set<std::int64_t>(first, first + 10).size(), 10u);
  }
  for (Index i = 0; i < set.images.size(); ++i) {
    const float level = set.images.data()[i] * 255.0f;
    EXPECT_LE(std::abs(level - std::round(level)), 1e-4f);
    EXPECT_LE(std::abs(set.images.data()[i] - 0.5f), 0.5f);
  }
  float border = 0, middle = 0;
  for (Index n = 0; n < set.size(); ++n) {
    const Eigen::Map<const lora::Matrix<float>> image(set.images.row(n).data(), 28, 28);
    EXPECT_GE(image.maxCoeff(), 0.6f) << n;
    EXPECT_GE(image.block(7, 7, 14, 14).mean(), 0.05f) << n;
    border += image.row(0).mean() + image.row(27).mean();
    middle += image.row(13).mean() + image.row(14).mean();
  }
  EXPECT_GE(middle, 4 * border);
}

// Nearest centroid is the poorest of classifiers; on ten random classes it would get a tenth. (A
// network of 784-128-64-10 trained on 4800 of these reaches 98 %.)
TEST(DrawnDigits, CanBeToldApart) {
  const DigitSet train = drawn(1000), test = drawn(500, 7);
  lora::Matrix<float> mean = lora::Matrix<float>::Zero(10, 784);
  for (Index n = 0; n < train.size(); ++n) {
    mean.row(train.labels[static_cast<std::size_t>(n)]) += train.images.row(n) / 100.0f;
  }
  int right = 0;
  for (Index n = 0; n < test.size(); ++n) {
    Index nearest = -1;
    (mean.rowwise() - test.images.row(n)).rowwise().squaredNorm().minCoeff(&nearest);
    right += nearest == test.labels[static_cast<std::size_t>(n)] ? 1 : 0;
  }
  EXPECT_GE(right, 300);
}

// Platforms may differ in the last bits of sin and cos, hardly ever in a level of 255.
TEST(DrawnDigits, KeepTheirLooks) {
  const DigitSet set = drawn(10);
  EXPECT_EQ(set.labels, (std::vector<std::int64_t>{0, 7, 2, 4, 5, 3, 6, 1, 9, 8}));
  const double ink = set.images.cast<double>().sum() * 255.0;
  EXPECT_LE(std::abs(ink - 275110.8), 20.0) << std::to_string(ink);
}

TEST(DrawnDigits, AreDrawnFast) {
  const auto start = std::chrono::steady_clock::now();
  const DigitSet set = drawn(600);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  // 0.03 s at -O2; the bound leaves room for sanitizers and a busy machine.
  EXPECT_LE(seconds, 5.0);
  EXPECT_EQ(set.size(), 600);
}

TEST(DrawnDigits, OtherSizesAndBadOptions) {
  examples::DrawnOptions options;
  options.count = 10;
  options.height = 8;
  options.width = 9;
  EXPECT_EQ(examples::draw_digits(options).images.cols(), 72);
  options.count = 0;
  EXPECT_EQ(examples::draw_digits(options).size(), 0);
  const auto error = [](auto change) {
    examples::DrawnOptions bad;
    change(bad);
    return message_of<lora::ConfigError>([&] { examples::draw_digits(bad); });
  };
  EXPECT_HAS(error([](auto& o) { o.count = -1; }), "draw_digits: count is -1, expected 0 to");
  EXPECT_HAS(error([](auto& o) { o.height = 3; }), "height is 3, expected 4 to 1024");
  EXPECT_HAS(error([](auto& o) { o.width = 2000; }), "width is 2000");
  EXPECT_HAS(error([](auto& o) { o.size = 0; }), "size is 0, expected more than 0");
  EXPECT_HAS(error([](auto& o) { o.noise = std::nan(""); }), "noise is nan, expected 0 to 1");
}

DigitSet tiny() {
  DigitSet set{lora::Matrix<float>::Zero(2, 9), {1, 2}, 3, 3, "tiny"};
  set.images(0, 1) = 1.0f;  // top middle
  set.images(1, 5) = 0.5f;  // right middle
  return set;
}

TEST(Shifts, AQuarterTurnGoesCounterClockwise) {
  const DigitSet turned = examples::shifted(tiny(), {.rotate_degrees = 90});
  const float slack = 1e-6f;                               // cos 90° is not quite 0
  EXPECT_LE(std::abs(turned.images(0, 3) - 1.0f), slack);  // left middle
  EXPECT_LE(std::abs(turned.images(1, 1) - 0.5f), slack);  // top middle
  EXPECT_LE(std::abs(turned.images.sum() - 1.5f), 4 * slack);
  EXPECT_EQ(turned.labels, tiny().labels);
  EXPECT_EQ(turned.source, "tiny (rotated 90°)");
}

TEST(Shifts, ATurnThereAndBackKeepsASmoothPicture) {
  const DigitSet set = drawn(20);
  const DigitSet back =
      examples::shifted(examples::shifted(set, {.rotate_degrees = 180}), {.rotate_degrees = -180});
  EXPECT_LE((back.images - set.images).cwiseAbs().maxCoeff(), 1e-5f);
  const DigitSet turned = examples::shifted(set, {.rotate_degrees = 30});
  // Bilinear weights are shares, so the ink of a picture with an empty border is about kept.
  EXPECT_LE(std::abs(turned.images.sum() / set.images.sum() - 1.0f), 0.1f);
  EXPECT_LE(turned.images.maxCoeff(), 1.0f);
}

TEST(Shifts, InvertAndNoise) {
  const DigitSet inverted = examples::shifted(tiny(), {.invert = true});
  EXPECT_TRUE(inverted.images == (1.0f - tiny().images.array()).matrix());
  const DigitSet gray{lora::Matrix<float>::Constant(50, 100, 0.5f), std::vector<std::int64_t>(50),
                      10, 10, "gray"};
  const DigitSet noisy = examples::shifted(gray, {.noise = 0.1}),
                 again = examples::shifted(gray, {.noise = 0.1}),
                 other = examples::shifted(gray, {.noise = 0.1, .seed = 1});
  EXPECT_TRUE(noisy.images == again.images);
  EXPECT_FALSE(noisy.images == other.images);
  // 5000 numbers: the deviation is known to one part in sqrt(2 · 5000); five of these.
  const float deviation = std::sqrt((noisy.images.array() - 0.5f).square().mean());
  EXPECT_LE(std::abs(deviation - 0.1f), 0.1f * 5.0f / 100.0f);
  const DigitSet loud = examples::shifted(gray, {.noise = 2});
  EXPECT_EQ(loud.images.minCoeff(), 0.0f);
  EXPECT_EQ(loud.images.maxCoeff(), 1.0f);
}

TEST(Shifts, NamesFromTheCommandLine) {
  const examples::Shift shift = examples::parse_shift("rotate:-30.5,invert,noise:0.2");
  EXPECT_EQ(shift.rotate_degrees, -30.5);
  EXPECT_TRUE(shift.invert);
  EXPECT_EQ(shift.noise, 0.2);
  EXPECT_EQ(to_string(shift), "rotated -30.5°, inverted, noise 0.2");
  EXPECT_EQ(examples::parse_shift("rotate").rotate_degrees, 45.0);
  EXPECT_EQ(examples::parse_shift("noise").noise, 0.3);
  EXPECT_EQ(to_string(examples::parse_shift("none")), "unchanged");
  const auto error = [](const char* text) {
    return message_of<lora::ConfigError>([&] { examples::parse_shift(text); });
  };
  EXPECT_HAS(error("rotat:30"), "'rotat:30' is not a shift, expected none, rotate[:degrees]");
  EXPECT_HAS(error("invert,"), "'' is not a shift");
  EXPECT_HAS(error("invert:2"), "'invert:2' is not a shift");
  EXPECT_HAS(error("rotate:"), "has the amount '', expected a number from -360 to 360");
  EXPECT_HAS(error("rotate:400"), "amount '400'");
  EXPECT_HAS(error("rotate:30x"), "amount '30x'");
  EXPECT_HAS(error("noise:-1"), "amount '-1', expected a number from 0 to 10");
  EXPECT_HAS(error("noise:nan"), "amount 'nan'");
}

TEST(Parts, TakeAndSelect) {
  const DigitSet set = drawn(30), first = examples::take(set, 12);
  EXPECT_EQ(first.size(), 12);
  EXPECT_TRUE(first.images == set.images.topRows(12));
  EXPECT_EQ(examples::take(set, 1000).size(), 30);
  EXPECT_EQ(examples::take(set, 0).size(), 0);
  EXPECT_HAS(message_of<lora::ConfigError>([&] { examples::take(set, -1); }), "n is -1");
  for (const Index outside : {Index{-1}, Index{30}}) {
    EXPECT_HAS(message_of<lora::ShapeError>([&] {
                 examples::select(set, {&outside, 1});
               }),
               "expected 0 to 29");
  }
  DigitSet broken = set;
  broken.labels.pop_back();
  EXPECT_HAS(message_of<lora::ShapeError>([&] { examples::take(broken, 3); }),
             "select: images is (30, 784), expected (29, 784)");
  EXPECT_THROW(examples::shifted(broken, {.invert = true}), lora::ShapeError);
  EXPECT_THROW(examples::resized(broken, 8, 8), lora::ShapeError);
}

TEST(Parts, SplitSharesEveryImageOnce) {
  DigitSet set{lora::Matrix<float>(103, 1), std::vector<std::int64_t>(103), 1, 1, "numbers"};
  for (Index n = 0; n < 103; ++n) set.images(n, 0) = static_cast<float>(n);
  const examples::DigitSplit parts = examples::split(set, 0.2, 5),
                             again = examples::split(set, 0.2, 5);
  EXPECT_EQ(parts.validation.size(), 21);
  EXPECT_EQ(parts.train.size(), 82);
  std::set<float> seen(parts.train.images.data(), parts.train.images.data() + 82);
  seen.insert(parts.validation.images.data(), parts.validation.images.data() + 21);
  EXPECT_EQ(seen.size(), 103u);
  EXPECT_TRUE(parts.train.images == again.train.images);
  EXPECT_FALSE(parts.train.images == examples::split(set, 0.2, 6).train.images);
  for (const double fraction : {0.0, 1.0, -0.5, 0.001, 0.999, std::nan("")}) {
    EXPECT_HAS(message_of<lora::ConfigError>([&] { examples::split(set, fraction, 0); }),
               "of 103 images leaves one side empty");
  }
}

TEST(Parts, ResizedTakesTheMeanOfAreas) {
  const DigitSet set = drawn(5);
  const DigitSet half = examples::resized(set, 14, 14), same = examples::resized(set, 28, 28),
                 odd = examples::resized(set, 8, 11);
  EXPECT_LE((same.images - set.images).cwiseAbs().maxCoeff(), 1e-6f);
  const float expected =
      (set.images(2, 0) + set.images(2, 1) + set.images(2, 28) + set.images(2, 29)) / 4;
  EXPECT_LE(std::abs(half.images(2, 0) - expected), 1e-6f);
  EXPECT_EQ(odd.images.cols(), 88);
  EXPECT_LE(std::abs(odd.images.mean() - set.images.mean()), 1e-5f);
  EXPECT_HAS(message_of<lora::ConfigError>([&] { examples::resized(set, 0, 8); }), "(0, 8)");
}

}  // namespace digits_test
