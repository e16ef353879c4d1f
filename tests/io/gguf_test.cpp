// GGUF: layout byte by byte, what one half writes the other reads, and files that lie.
#include <lora/io/gguf/gguf.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "support/shared.hpp"

namespace gguf_test {
using namespace lora;

// A file put together by hand, without the writer.
struct Raw {
  std::string bytes;

  template <class T>
  Raw& number(T value) {
    char raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof(T));
    bytes.append(raw, sizeof(T));
    return *this;
  }
  Raw& u8(std::uint8_t v) { return number(v); }
  Raw& u32(std::uint32_t v) { return number(v); }
  Raw& u64(std::uint64_t v) { return number(v); }
  Raw& f32(float v) { return number(v); }
  Raw& plain(std::string_view text) {
    bytes += text;
    return *this;
  }
  Raw& text(std::string_view t) { return u64(t.size()).plain(t); }
  Raw& pad(std::size_t alignment = 32) {
    bytes.resize((bytes.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  Raw& header(std::uint64_t tensors, std::uint64_t keys) {
    return plain("GGUF").u32(3).u64(tensors).u64(keys);
  }
  Raw& info(std::string_view name, std::vector<std::uint64_t> ne, std::uint32_t type,
            std::uint64_t offset) {
    text(name).u32(static_cast<std::uint32_t>(ne.size()));
    for (const std::uint64_t n : ne) u64(n);
    return u32(type).u64(offset);
  }
};

std::vector<std::byte> to_bytes(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}
std::string to_text(const std::vector<std::byte>& bytes) { return std::string(as_text(bytes)); }

GgufFile parse(std::string_view text) { return GgufFile::from_bytes(to_bytes(text), "x.gguf"); }

// What parsing says, or "" when the file is accepted.
std::string refusal(std::string_view text) {
  try {
    parse(text);
  } catch (const FormatError& error) {
    return error.what();
  }
  return "";
}
template <class E>
std::string message(const std::function<void()>& call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  }
  return "(not thrown)";
}

// Two keys and two tensors, A (2, 3) of F32 and B (1, 2) of F16.
Raw small_file() {
  Raw raw;
  raw.header(2, 2);
  raw.text("general.type").u32(8).text("adapter");
  raw.text("adapter.lora.alpha").u32(6).f32(8);
  raw.info("x.weight.lora_a", {3, 2}, 0, 0);
  raw.info("x.weight.lora_b", {2, 1}, 1, 32);
  raw.pad();
  for (const float v : {1.f, -2.f, 3.f, 0.5f, -0.25f, 7.f}) raw.f32(v);
  raw.pad();
  raw.number<std::uint16_t>(0x3C00).number<std::uint16_t>(0xC100);  // 1, -2.5
  return raw.pad();
}

template <class S>
std::vector<std::byte> encoded(DType dtype, const std::vector<S>& values) {
  std::vector<std::byte> bytes(values.size() * dtype_bits(dtype) / 8);
  encode_elements(dtype, std::span<const S>(values), bytes.data());
  return bytes;
}
void add(GgufWriter& writer, const std::string& name, DType dtype, std::vector<Index> shape,
         const std::vector<float>& values) {
  writer.add(name, dtype, shape, encoded(dtype, values));
}

GgufWriter small_writer() {
  GgufWriter writer;
  writer.set("general.type", std::string("adapter"));
  writer.set("adapter.lora.alpha", 8.0f);
  add(writer, "x.weight.lora_a", DType::F32, {2, 3}, {1, -2, 3, 0.5f, -0.25f, 7});
  add(writer, "x.weight.lora_b", DType::F16, {1, 2}, {1, -2.5f});
  return writer;
}

TEST(GgufWriter, LayoutByteByByte) {
  EXPECT_EQ(to_text(small_writer().to_bytes()), small_file().bytes);
}

TEST(GgufWriter, EveryTypeOfValueByteByByte) {
  Raw raw;
  raw.header(0, 14);
  raw.text("a").u32(0).u8(200).text("b").u32(1).number<std::int8_t>(-3);
  raw.text("c").u32(2).number<std::uint16_t>(60000).text("d").u32(3).number<std::int16_t>(-4);
  raw.text("e").u32(4).u32(4000000000u).text("f").u32(5).number<std::int32_t>(-5);
  raw.text("g").u32(6).f32(1.5f).text("h").u32(7).u8(1).text("i").u32(8).text("\xC3\xA4");
  raw.text("j").u32(9).u32(7).u64(2).u8(0).u8(1);
  raw.text("k").u32(9).u32(9).u64(1).u32(8).u64(2).text("").text("yz");
  raw.text("l").u32(10).u64(~0ull).text("m").u32(11).number<std::int64_t>(-6);
  raw.text("n").u32(12).number<double>(0.1);
  GgufWriter writer;
  writer.set("a", std::uint8_t{200});
  writer.set("b", std::int8_t{-3});
  writer.set("c", std::uint16_t{60000});
  writer.set("d", std::int16_t{-4});
  writer.set("e", std::uint32_t{4000000000u});
  writer.set("f", std::int32_t{-5});
  writer.set("g", 1.5f);
  writer.set("h", true);
  writer.set("i", std::string("\xC3\xA4"));
  writer.set("j", GgufArray{std::vector<bool>{false, true}});
  writer.set("k", GgufArray{std::vector{GgufArray{std::vector<std::string>{"", "yz"}}}});
  writer.set("l", ~std::uint64_t{0});
  writer.set("m", std::int64_t{-6});
  writer.set("n", 0.1);
  EXPECT_EQ(to_text(writer.to_bytes()), Raw(raw).pad().bytes);

  for (const std::string& text : {raw.bytes, Raw(raw).pad().bytes}) {  // ggml's own has no padding
    const GgufFile file = parse(text);
    EXPECT_EQ(file.keys().size(), 14u);
    EXPECT_EQ(file.keys().front(), "a");
    EXPECT_EQ(file.get<std::uint8_t>("a"), 200);
    EXPECT_EQ(file.get<std::int8_t>("b"), -3);
    EXPECT_EQ(file.get<std::uint16_t>("c"), 60000);
    EXPECT_EQ(file.get<std::int16_t>("d"), -4);
    EXPECT_EQ(file.get<std::uint32_t>("e"), 4000000000u);
    EXPECT_EQ(file.get<std::int32_t>("f"), -5);
    EXPECT_EQ(file.get<float>("g"), 1.5f);
    EXPECT_TRUE(file.get<bool>("h"));
    EXPECT_EQ(file.get<std::string>("i"), "\xC3\xA4");
    EXPECT_EQ(std::get<std::vector<bool>>(file.get<GgufArray>("j").values),
              (std::vector<bool>{false, true}));
    const auto& outer = std::get<std::vector<GgufArray>>(file.get<GgufArray>("k").values);
    EXPECT_EQ(std::get<std::vector<std::string>>(outer.at(0).values),
              (std::vector<std::string>{"", "yz"}));
    EXPECT_EQ(file.get<std::uint64_t>("l"), ~std::uint64_t{0});
    EXPECT_EQ(file.get<std::int64_t>("m"), -6);
    EXPECT_EQ(file.get<double>("n"), 0.1);
  }
}

TEST(GgufWriter, TheSameCallsGiveTheSameBytesOnDisk) {
  const lora_test::TemporaryFolder folder;
  small_writer().write(folder.path / "a.gguf");
  EXPECT_EQ(to_text(read_file(folder.path / "a.gguf", 1000)), small_file().bytes);
}

TEST(GgufWriter, Refusals) {
  GgufWriter w = small_writer();
  const std::vector<std::byte> before = w.to_bytes();
  const auto key = [&](const std::string& name, const GgufValue& value) {
    return message<ConfigError>([&] { w.set(name, value); });
  };
  EXPECT_EQ(key("", true), "GgufWriter: key is empty");
  EXPECT_EQ(key(std::string("a\0b", 3), true),
            "GgufWriter: key \"a\\x00b\" is not UTF-8 without NUL");
  EXPECT_NE(key(std::string(65536, 'k'), true).find("has 65536 bytes, expected at most 65535"),
            std::string::npos);
  EXPECT_EQ(key("general.type", true), "GgufWriter: key \"general.type\" set twice");
  EXPECT_EQ(key("general.alignment", std::uint32_t{64}),
            "GgufWriter: key \"general.alignment\" is not set by callers: tensors are aligned to "
            "the default");
  EXPECT_EQ(key("k", std::string("\xFF")),
            "GgufWriter: key \"k\": value \"\\xff\" is not UTF-8 without NUL");
  GgufArray deep{std::vector<bool>{true}};
  for (int level = 1; level < gguf_deepest_array; ++level) deep = {std::vector<GgufArray>{deep}};
  EXPECT_EQ(key("deepest", deep), "(not thrown)");
  w = small_writer();
  EXPECT_EQ(key("k", GgufArray{std::vector<GgufArray>{deep}}),
            "GgufWriter: key \"k\": arrays are nested deeper than 4 levels");

  const auto tensor = [&](const std::string& name, DType dtype, std::vector<Index> shape,
                          std::size_t count) {
    return message<Error>([&] { w.add(name, dtype, shape, std::vector<std::byte>(count)); });
  };
  EXPECT_EQ(tensor("", DType::F32, {1}, 4), "GgufWriter: tensor name is empty");
  EXPECT_EQ(
      tensor(std::string(64, 'n'), DType::F32, {1}, 4),
      "GgufWriter: tensor name \"" + std::string(64, 'n') + "\" has 64 bytes, expected at most 63");
  EXPECT_EQ(tensor("x.weight.lora_a", DType::F32, {1}, 4),
            "GgufWriter: tensor \"x.weight.lora_a\" added twice");
  EXPECT_EQ(tensor("t", DType::F64, {1}, 8),
            "GgufWriter: tensor \"t\": dtype is F64, expected F32, F16 or BF16");
  EXPECT_EQ(tensor("t", DType::F32, {1, 1, 1, 1, 1}, 4),
            "GgufWriter: tensor \"t\": shape [1, 1, 1, 1, 1] has 5 dimensions, expected at most 4");
  EXPECT_EQ(tensor("t", DType::F32, {2, 3}, 20),
            "GgufWriter: tensor \"t\": 20 bytes given, expected 24 for shape [2, 3] of F32");
  EXPECT_EQ(tensor("t", DType::F32, {-1}, 4),
            "GgufWriter: tensor \"t\": shape [-1] has a negative dimension");
  EXPECT_EQ(w.to_bytes(), before);
  EXPECT_EQ(tensor(std::string(63, 'n'), DType::F32, {1}, 4), "(not thrown)");
}

TEST(GgufFile, ReadsTheSmallFile) {
  const GgufFile file = parse(small_file().bytes);
  EXPECT_EQ(file.where(), "x.gguf");
  EXPECT_EQ(file.alignment(), 32u);
  EXPECT_EQ(file.keys(), (std::vector<std::string>{"general.type", "adapter.lora.alpha"}));
  EXPECT_EQ(file.names(), (std::vector<std::string>{"x.weight.lora_a", "x.weight.lora_b"}));
  EXPECT_TRUE(file.contains("x.weight.lora_a"));
  EXPECT_FALSE(file.contains("x"));
  EXPECT_EQ(file.info("x.weight.lora_a").shape, (std::vector<Index>{2, 3}));
  EXPECT_EQ(file.info("x.weight.lora_b").type.name, "F16");
  Matrix<float> a(2, 3);
  a << 1, -2, 3, 0.5f, -0.25f, 7;
  EXPECT_EQ(file.matrix<float>("x.weight.lora_a"), a);
  EXPECT_EQ(file.matrix<double>("x.weight.lora_a"), a.cast<double>());
  Matrix<float> b(1, 2);
  b << 1, -2.5f;
  EXPECT_EQ(file.matrix<float>("x.weight.lora_b"), b);
  EXPECT_EQ(message<FormatError>([&] { file.info("y"); }), "x.gguf: has no tensor \"y\"");
  EXPECT_EQ(message<FormatError>([&] { file.get<float>("y"); }),
            "x.gguf: has no key \"y\", expected f32");
  EXPECT_EQ(message<FormatError>([&] { file.get<std::uint32_t>("adapter.lora.alpha"); }),
            "x.gguf: key \"adapter.lora.alpha\" is f32, expected u32");
}

TEST(GgufFile, ReadsFromDisk) {
  const lora_test::TemporaryFolder folder;
  const auto path = folder.path / "a.gguf";
  atomic_write(path, small_file().bytes);
  EXPECT_EQ(GgufFile::open(path).matrix<float>("x.weight.lora_a")(1, 2), 7.0f);
  EXPECT_NE(message<FormatError>([&] { GgufFile::open(path, 100); }).find("limit of 100"),
            std::string::npos);
  EXPECT_NE(message<IoError>([&] { GgufFile::open(folder.path / "b"); }).find("cannot open"),
            std::string::npos);
}

TEST(GgufFile, DimensionsAndTypes) {
  Raw raw;
  raw.header(6, 1).text("general.alignment").u32(4).u32(8);
  raw.info("scalar", {}, 0, 0).info("vector", {3}, 30, 8).info("cube", {2, 1, 3}, 1, 16);
  raw.info("none", {0, 5}, 0, 32).info("blocks", {64, 2}, 8, 32).info("last", {1}, 0, 168);
  raw.pad(8).f32(5).pad(8);
  raw.number<std::uint16_t>(0x3F80).number<std::uint16_t>(0).number<std::uint16_t>(0xC000).pad(8);
  for (int i = 0; i < 6; ++i) raw.number<std::uint16_t>(0x3C00);
  raw.pad(8).plain(std::string(136, 'q')).f32(6).pad(8);
  const GgufFile file = parse(raw.bytes);
  EXPECT_EQ(file.alignment(), 8u);
  EXPECT_EQ(file.matrix<float>("scalar"), Matrix<float>::Constant(1, 1, 5));
  Matrix<float> vector(1, 3);
  vector << 1, 0, -2;
  EXPECT_EQ(file.matrix<float>("vector"), vector);
  EXPECT_EQ(file.matrix<float>("cube"), Matrix<float>::Ones(3, 2));
  EXPECT_EQ(file.info("cube").shape, (std::vector<Index>{3, 1, 2}));
  EXPECT_EQ(file.matrix<float>("none").rows(), 5);
  EXPECT_EQ(as_text(file.bytes("blocks")), std::string(136, 'q'));
  EXPECT_EQ(file.matrix<float>("last")(0, 0), 6);
  EXPECT_EQ(message<FormatError>([&] { file.matrix<float>("blocks"); }),
            "x.gguf: tensor \"blocks\": type is Q8_0, expected F32, F16 or BF16");
}

TEST(GgufFile, TypesHaveOneRowEach) {
  for (const GgufType& type : all_gguf_types) {
    EXPECT_EQ(gguf_type_from_id(type.id)->name, type.name);
    EXPECT_GT(type.block * type.block_bytes, 0u);
  }
  EXPECT_FALSE(gguf_type_from_id(4));
  EXPECT_EQ(gguf_type_from_dtype(DType::BF16)->id, 30u);
  EXPECT_FALSE(gguf_type_from_dtype(DType::I32));
}

// Whatever is accepted says what its bytes say: written again it is the same file.
void expect_consistent(const std::string& text, const GgufFile& file) {
  GgufWriter writer;
  try {
    for (const std::string& key : file.keys()) writer.set(key, *file.find(key));
    for (const std::string& name : file.names()) {
      const GgufTensor& tensor = file.info(name);
      const auto bytes = file.bytes(name);
      ASSERT_TRUE(tensor.type.dtype) << name;
      file.matrix<double>(name);
      writer.add(name, *tensor.type.dtype, tensor.shape, {bytes.begin(), bytes.end()});
    }
  } catch (const ConfigError& error) {
    // Only strings may hold what the writer refuses.
    EXPECT_NE(std::string(error.what()).find("value"), std::string::npos) << error.what();
    return;
  }
  EXPECT_EQ(to_text(writer.to_bytes()), text);
}

TEST(GgufFile, CutAtEveryByteIsRefused) {
  const std::string whole = small_file().bytes;
  for (std::size_t length = 0; length < whole.size(); ++length) {
    EXPECT_NE(refusal(whole.substr(0, length)), "") << length;
  }
  EXPECT_EQ(refusal(whole), "");
}

TEST(GgufFile, EveryBitFlippedIsRefusedOrReadAsItStands) {
  const std::string whole = small_file().bytes;
  int accepted = 0, refused = 0;
  for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string text = whole;
    text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << bit % 8));
    try {
      const GgufFile file = parse(text);
      expect_consistent(text, file);
      ++accepted;
    } catch (const FormatError&) {
      ++refused;
    }
  }
  // Names, texts, alpha and the elements may say anything; the rest may not.
  EXPECT_GT(accepted, 8 * 28);
  EXPECT_GT(refused, 8 * 100);
}

TEST(GgufFile, RefusesOtherFiles) {
  EXPECT_EQ(refusal(""), "x.gguf: begins with \"\" of 0 bytes, expected \"GGUF\" and a version");
  EXPECT_EQ(refusal("GGML....."),
            "x.gguf: begins with \"GGML\" of 9 bytes, expected \"GGUF\" and a version");
  EXPECT_EQ(refusal(Raw().plain("GGUF").u32(2).u64(0).u64(0).bytes),
            "x.gguf: version is 2, expected 3");
  EXPECT_EQ(refusal(Raw().plain("GGUF").u32(0x03000000).u64(0).u64(0).bytes),
            "x.gguf: version is 50331648, expected 3: it looks like a big-endian file, which is "
            "not supported");
  EXPECT_NE(refusal("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
                .find("is a Git LFS pointer"),
            std::string::npos);
}

TEST(GgufFile, LiesOfTheMetadata) {
  const auto key = [](Raw value) { return refusal(Raw().header(0, 1).plain(value.bytes).bytes); };
  EXPECT_EQ(refusal(Raw().header(1u << 30, 0).bytes),
            "x.gguf: number of tensors is 1073741824, but the 8 bytes that follow have room for 0 "
            "at most");
  EXPECT_EQ(refusal(Raw().header(0, ~0ull).plain("abc").bytes),
            "x.gguf: number of keys is 18446744073709551615, but the 3 bytes that follow have room "
            "for 0 at most");
  EXPECT_EQ(key(Raw().u64(~0ull).plain("abcdefghij")),
            "x.gguf: key 0 takes 18446744073709551615 bytes, but 10 are left in the file");
  EXPECT_EQ(key(Raw().text("").u32(0).u8(1).u8(1)), "x.gguf: key 0 is empty");
  EXPECT_EQ(key(Raw().text("\xC0\x80").u32(0).u8(1)),
            "x.gguf: key 0 \"\\xc0\\x80\" is not UTF-8 without NUL");
  EXPECT_NE(key(Raw().text(std::string(65536, 'k')).u32(0).u8(1)).find("expected at most 65535"),
            std::string::npos);
  EXPECT_EQ(key(Raw().text("k").u32(13).u64(1)),
            "x.gguf: key \"k\": type is 13, expected at most 12");
  EXPECT_EQ(key(Raw().text("k").u32(7).u8(2)), "x.gguf: key \"k\" is a bool of 2, expected 0 or 1");
  EXPECT_EQ(key(Raw().text("k").u32(10).u32(1)),
            "x.gguf: key \"k\" takes 8 bytes, but 4 are left in the file");
  EXPECT_EQ(key(Raw().text("k").u32(8).u64(5).plain("abcd")),
            "x.gguf: key \"k\" takes 5 bytes, but 4 are left in the file");
  EXPECT_EQ(key(Raw().text("k").u32(9).u32(10).u64(3).u64(1).u64(2)),
            "x.gguf: key \"k\": number of elements is 3, but the 16 bytes that follow have room "
            "for 2 at most");
  EXPECT_EQ(key(Raw().text("k").u32(9).u32(99).u64(0)),
            "x.gguf: key \"k\": type is 99, expected at most 12");
  Raw deep;
  deep.text("k").u32(9);
  for (int level = 0; level < gguf_deepest_array; ++level) deep.u32(9).u64(1);
  EXPECT_EQ(key(deep.u32(0).u64(0)), "x.gguf: key \"k\": arrays are nested deeper than 4 levels");
  EXPECT_EQ(refusal(Raw().header(0, 2).text("k").u32(0).u8(1).text("k").u32(7).u8(1).bytes),
            "x.gguf: key \"k\" appears twice");
  EXPECT_EQ(key(Raw().text("general.alignment").u32(5).u32(32)),
            "x.gguf: key \"general.alignment\" is i32, expected u32");
  for (const std::uint32_t alignment : {0u, 24u}) {
    EXPECT_EQ(key(Raw().text("general.alignment").u32(4).u32(alignment)),
              "x.gguf: key \"general.alignment\" is " + std::to_string(alignment) +
                  ", expected a power of two");
  }
}

TEST(GgufFile, LiesOfTheTensors) {
  const auto one = [](Raw info, std::size_t data = 32) {
    return refusal(Raw().header(1, 0).plain(info.bytes).pad().plain(std::string(data, '\0')).bytes);
  };
  const std::string about = "x.gguf: tensor \"t\": ";
  EXPECT_EQ(one(Raw().info("t", {8}, 0, 0)), "");
  EXPECT_EQ(one(Raw().info("", {8}, 0, 0)), "x.gguf: tensor 0: name is empty");
  EXPECT_EQ(one(Raw().info(std::string(63, 'n'), {8}, 0, 0)), "");
  EXPECT_EQ(
      one(Raw().info(std::string(64, 'n'), {8}, 0, 0)),
      "x.gguf: tensor 0: name \"" + std::string(64, 'n') + "\" has 64 bytes, expected at most 63");
  EXPECT_EQ(one(Raw().info("t\xFF", {8}, 0, 0)),
            "x.gguf: tensor 0: name \"t\\xff\" is not UTF-8 without NUL");
  EXPECT_EQ(one(Raw().info("t", {8, 1, 1, 1}, 0, 0)), "");
  EXPECT_EQ(one(Raw().info("t", {8, 1, 1, 1, 1}, 0, 0)),
            about + "has 5 dimensions, expected at most 4");
  EXPECT_EQ(one(Raw().text("t").u32(~0u).u64(8).u64(8)),
            about + "has 4294967295 dimensions, expected at most 4");
  EXPECT_EQ(one(Raw().info("t", {8, 1ull << 63}, 0, 0)),
            about + "dimension 1 is 9223372036854775808, which overflows 63 bits");
  EXPECT_EQ(one(Raw().info("t", {1ull << 32, 1ull << 31}, 0, 0)),
            about + "shape [2147483648, 4294967296] overflows 63 bits");
  EXPECT_EQ(one(Raw().info("t", {0, 1ull << 32, 1ull << 31}, 0, 0)),
            about + "shape [2147483648, 4294967296, 0] overflows 63 bits");
  EXPECT_EQ(one(Raw().info("t", {1ull << 62}, 0, 0)),
            about + "shape [4611686018427387904] of F32 overflows 64 bits");
  EXPECT_EQ(one(Raw().info("t", {8}, 4, 0)), about + "type is 4, whose size is not known");
  EXPECT_EQ(one(Raw().info("t", {48}, 8, 0)),
            about + "a row has 48 elements, expected a multiple of 32, the block of Q8_0");
  EXPECT_EQ(one(Raw().info("t", {}, 8, 0)),
            about + "a row has 1 elements, expected a multiple of 32, the block of Q8_0");
  EXPECT_EQ(one(Raw().info("t", {8}, 0, 32)),
            about + "offset is 32, expected 0, where the tensor before ends with its padding");
  EXPECT_EQ(one(Raw().info("t", {1000}, 0, 0)),
            about + "takes 4000 bytes at offset 0 of the data, more than the file of 96 has");
  EXPECT_EQ(one(Raw().info("t", {9}, 0, 0)),
            "x.gguf: has 96 bytes, expected 128: 64 before the data and 64 of tensors with their "
            "padding");
  EXPECT_EQ(one(Raw().info("t", {8}, 0, 0), 33),
            "x.gguf: has 97 bytes, expected 96: 64 before the data and 32 of tensors with their "
            "padding");
  const std::string cut = Raw().header(1, 0).text("t").u32(1).u64(8).u32(0).u32(0).bytes;
  EXPECT_EQ(refusal(cut), "x.gguf: tensor \"t\": offset takes 8 bytes, but 4 are left in the file");
}

TEST(GgufFile, TensorsFollowEachOther) {
  const auto two = [](std::string_view second, std::uint64_t offset) {
    Raw raw;
    raw.header(2, 0).info("t", {9}, 0, 0).info(second, {8}, 0, offset).pad();
    return refusal(raw.plain(std::string(96, '\0')).bytes);
  };
  EXPECT_EQ(two("u", 64), "");
  EXPECT_EQ(two("t", 64), "x.gguf: tensor \"t\" appears twice");
  for (const std::uint64_t offset : {36u, 32u, 0u, 128u}) {
    EXPECT_EQ(two("u", offset), "x.gguf: tensor \"u\": offset is " + std::to_string(offset) +
                                    ", expected 64, where the tensor before ends with its padding");
  }
}

TEST(GgufFile, PaddingIsZero) {
  std::string text = small_file().bytes;
  text.back() = 1;
  EXPECT_EQ(refusal(text),
            "x.gguf: the padding after tensor \"x.weight.lora_b\" is not zero at "
            "byte " +
                std::to_string(text.size() - 1));
  Raw raw;
  raw.header(1, 0).info("t", {8}, 0, 0).plain("!").pad().plain(std::string(32, '\0'));
  EXPECT_EQ(refusal(raw.bytes), "x.gguf: the padding before the data is not zero at byte 57");
}

// A count or length within the file must not make the reader take more memory than the file
// accounts for: arrays of empty arrays and of empty strings are the worst.
TEST(GgufFile, LargeArraysAreRead) {
  Raw raw;
  raw.header(0, 2).text("strings").u32(9).u32(8).u64(10000);
  for (int i = 0; i < 10000; ++i) raw.text("");
  raw.text("arrays").u32(9).u32(9).u64(10000);
  for (int i = 0; i < 10000; ++i) raw.u32(0).u64(0);
  const GgufFile file = parse(raw.bytes);
  EXPECT_EQ(std::get<std::vector<GgufArray>>(file.get<GgufArray>("arrays").values).size(), 10000u);
  EXPECT_EQ(std::get<std::vector<std::string>>(file.get<GgufArray>("strings").values).size(),
            10000u);
}

// What comes before the data has a limit of its own, however large the file is.
TEST(GgufFile, TheHeaderHasALimit) {
  Raw raw;
  raw.header(0, 1).text("k").u32(9).u32(0).u64(gguf_max_header);
  raw.plain(std::string(gguf_max_header, '\0'));
  EXPECT_NE(refusal(raw.bytes).find("number of elements is 67108864, but the"), std::string::npos)
      << refusal(raw.bytes);
  Raw text;
  text.header(0, 1).text("k").u32(8).u64(gguf_max_header);
  text.plain(std::string(gguf_max_header, 'x'));
  EXPECT_NE(refusal(text.bytes).find("within the limit of 67108864 before the data"),
            std::string::npos)
      << refusal(text.bytes);
}

}  // namespace gguf_test
