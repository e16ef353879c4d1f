#include <lora/io/safetensors/safetensors.hpp>

#include <gtest/gtest.h>

#include <bit>
#include <fstream>
#include <map>
#include <random>
#include <set>

#include "support/allocations.hpp"
#include "support/file_calls.hpp"
#include "support/golden.hpp"
#include "support/messages.hpp"
#include "support/shared.hpp"

namespace safetensors_test {
using lora_test::message_of;

namespace fs = std::filesystem;
using lora::DType;
using lora::Index;
using lora::SafetensorsFile;
using lora::SafetensorsWriter;
using Bytes = std::vector<std::byte>;

Bytes bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

// A file of this header and data, with the header's length in front.
Bytes file_of(const std::string& header, std::string_view data = "") {
  const std::uint64_t length = header.size();
  std::string text(8, '\0');
  std::memcpy(text.data(), &length, 8);
  text += header;
  text += data;
  return bytes_of(text);
}
std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  int begin, int end) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(end) + "]}";
}

// The message of the FormatError, or "accepted".
std::string verdict(Bytes bytes) {
  try {
    SafetensorsFile::from_bytes(std::move(bytes), "some.safetensors");
    return "accepted";
  } catch (const lora::FormatError& error) {
    return error.what();
  }
}
std::string verdict(const fs::path& path, lora::FileStorage storage) {
  try {
    SafetensorsFile::open(path, {.storage = storage});
    return "accepted";
  } catch (const lora::FormatError& error) {
    return error.what();
  }
}
void expect_refused(Bytes bytes, const std::string& part) {
  const std::string message = verdict(std::move(bytes));
  EXPECT_EQ(message.find("some.safetensors: "), 0u) << message;
  EXPECT_HAS(message, part);
}

// What an accepted file promises, held against nothing but its size; reads every tensor that can be
// read.
void expect_consistent(const SafetensorsFile& file, std::size_t data_bytes) {
  std::uint64_t end = 0;
  std::set<std::string> seen;
  for (const std::string& name : file.names()) {
    const lora::TensorInfo& info = file.info(name);
    EXPECT_TRUE(seen.insert(name).second);
    EXPECT_EQ(info.begin, end);
    end = info.end;
    std::uint64_t bits = lora::dtype_bits(info.dtype);
    for (const Index n : info.shape) bits *= static_cast<std::uint64_t>(n);
    EXPECT_EQ(bits, 8 * (info.end - info.begin));
    EXPECT_EQ(file.bytes(name).size(), info.end - info.begin);
    if (lora::is_matrix_dtype(info.dtype)) {
      EXPECT_EQ(static_cast<std::uint64_t>(file.matrix<float>(name).size()) *
                    lora::dtype_bits(info.dtype),
                bits);
    }
  }
  EXPECT_EQ(end, data_bytes);
}

// ---- files of others

// Our verdict where the manifest leaves it open.
const std::map<std::string, bool> policy = {
    {"ok_leading_ws.safetensors", true},    {"ok_dtype_F4.safetensors", true},
    {"ok_dtype_F6_E2M3.safetensors", true}, {"pol_unknown_field.safetensors", true},
    {"pol_empty_name.safetensors", false},  {"pol_nul_in_name.safetensors", true},
    {"pol_path_name.safetensors", true},    {"pol_metadata_null.safetensors", true},
    {"pol_ndim_100.safetensors", true}};

// What the message of a refused file must say.
const std::map<std::string, std::string> reasons = {
    {"bad_empty_file", "has 0 bytes, expected at least the 8 of the header's length"},
    {"bad_7_bytes", "has 7 bytes, expected at least the 8"},
    {"bad_len_past_end", "header length is"},
    {"bad_len_100MB_plus_1", "header length is 100000001, expected at most 2"},
    {"bad_len_u64max", "header length is 18446744073709551615"},
    {"bad_len_u64max_minus7", "header length is 18446744073709551608"},
    {"bad_len_zero", "header: not valid JSON: byte 0"},
    {"bad_not_utf8", "header: not valid JSON: byte 0"},
    {"bad_not_json", "header: not valid JSON"},
    {"bad_nul_padding", "a NUL byte"},
    {"bad_top_level_array", "header is not a JSON object"},
    {"bad_trailing_data",
     "the tensors end at byte 1 after the header, expected 13, the end of the file"},
    {"bad_missing_data", "but the file has only"},
    {"bad_hole_front", "expected to begin at 0"},
    {"bad_hole_middle", "tensor \"b\": data_offsets is [2, 3], expected to begin at 1"},
    {"bad_overlap", "expected to begin at"},
    {"bad_reversed_offsets", "expected not to end before it begins"},
    {"bad_size_mismatch", "bytes for shape"},
    {"bad_shape_mul_overflow", "overflows"},
    {"bad_shape_bytes_overflow", "overflows"},
    {"bad_shape_wraps_to_zero", "overflows 64 bits"},
    {"bad_shape_wraps_to_zero_wild_offsets", "expected to begin at 0"},
    {"bad_shape_wraps_small", "overflows 64 bits"},
    {"bad_negative_dim", "shape holds -1, expected an unsigned integer"},
    {"bad_float_dim", "shape holds 1.0, expected an unsigned integer"},
    {"bad_exp_dim", "expected an unsigned integer"},
    {"bad_dim_gt_u64",
     "shape holds 1.8446744073709552e+19, expected an unsigned integer of 64 bits"},
    {"bad_string_dim", "expected an unsigned integer"},
    {"bad_leading_zero_int", "not valid JSON"},
    {"bad_offsets_len1", "data_offsets has 1 numbers, expected [begin, end]"},
    {"bad_offsets_len3", "data_offsets has 3 numbers, expected [begin, end]"},
    {"bad_missing_dtype", "dtype is missing"},
    {"bad_unknown_dtype", "which is not one of the format's"},
    {"bad_lowercase_dtype", "dtype is \"f32\", which is not one of the format's"},
    {"bad_sub_byte", "does not fill whole bytes"},
    {"bad_metadata_int", "is number, expected a string"},
    {"bad_metadata_nested", "is object, expected a string"},
    {"bad_dup_key_diff_offsets", "appears twice"},
    {"bad_dup_key_same_offsets", "appears twice"},
    {"bad_dup_key_via_escape", "appears twice"},
    {"bad_dup_field", "appears twice"},
    {"bad_deep_nesting", "nested deeper than 64 levels"},
    {"bad_lfs_pointer", "is a Git LFS pointer"},
    {"bad_path_symlink_text", "the file begins like text, \"/home"},
    {"bad_comment", "not valid JSON"},
    {"bad_trailing_comma", "not valid JSON"},
    {"bad_lone_surrogate", "surrogate"},
    {"bad_bom", "byte order mark"},
    {"pol_empty_name", "a tensor has an empty name"}};

TEST(SafetensorsVectors, EveryFileOfTheManifestGetsItsVerdict) {
  LORA_NEEDS_SHARED("data/safetensors/vectors/manifest.json");
  const fs::path folder = lora_test::shared_dir() / "data" / "safetensors" / "vectors";
  const auto manifest_bytes = lora::read_file(folder / "manifest.json", 1 << 20);
  const lora::Json manifest = lora::parse_json(lora::as_text(manifest_bytes), "manifest.json");
  std::size_t refused = 0;
  std::set<std::string> files;
  for (const lora::Json& row : manifest) {
    const auto name = row.at("file").get<std::string>(),
               expect = row.at("expect").get<std::string>();
    SCOPED_TRACE(name + ": " + row.at("why").get<std::string>());
    files.insert(name);
    const bool accept = expect == "accept" || (expect != "reject" && policy.at(name));
    for (const auto storage : {lora::FileStorage::memory, lora::FileStorage::mapped}) {
      const std::string message = verdict(folder / name, storage);
      EXPECT_EQ(message == "accepted", accept) << message;
      if (accept) continue;
      EXPECT_EQ(message.find((folder / name).string() + ": "), 0u) << message;
      EXPECT_HAS(message, reasons.at(fs::path(name).stem().string()));
    }
    if (accept) {
      const auto file = SafetensorsFile::open(folder / name);
      const auto bytes = lora::read_file(folder / name, 1 << 20);
      std::uint64_t header = 0;
      std::memcpy(&header, bytes.data(), 8);
      expect_consistent(file, bytes.size() - 8 - header);
    } else {
      ++refused;
    }
  }
  EXPECT_EQ(refused, reasons.size());
  for (const auto& file : fs::directory_iterator(folder)) {
    const std::string name = file.path().filename().string();
    EXPECT_TRUE(files.count(name) == 1 || name == "manifest.json")
        << name << " is not in the manifest";
  }
}

TEST(SafetensorsVectors, FilesFoundInTheWild) {
  LORA_NEEDS_SHARED("data/safetensors");
  const fs::path folder = lora_test::shared_dir() / "data" / "safetensors";
  const std::map<std::string, std::string> expected = {
      {"candle_csm_voices.safetensors", "accepted"},
      {"candle_jfk-codes.safetensors", "accepted"},
      {"syoyo_gen_model.safetensors", "accepted"},
      {"mini_llm_146B.safetensors", "the file begins like text"},
      {"bad/duplicate_keys_in_header.safetensors", "appears twice"},
      {"bad/header_size_too_big.safetensors", "header length is"},
      {"bad/safetensors_abuse_attempt_1.safetensors", "header length is"},
      {"bad/zero_len_file.safetensors", "has 0 bytes"}};
  for (const auto& [name, part] : expected) {
    for (const auto storage : {lora::FileStorage::memory, lora::FileStorage::mapped}) {
      EXPECT_HAS(verdict(folder / name, storage), part);
    }
  }
}

// The reference's writer made the golden files: reading one and writing it again gives its bytes,
// so our order, padding and spelling are the reference's.
TEST(SafetensorsVectors, GoldenFilesRewrittenAreIdentical) {
  lora_test::for_each_golden_set([](const lora_test::GoldenSet& set) {
    std::size_t count = 0;
    for (const auto& found : fs::recursive_directory_iterator(set.folder)) {
      if (found.path().extension() != ".safetensors") continue;
      SCOPED_TRACE(found.path().string());
      const auto file = SafetensorsFile::open(found.path());
      SafetensorsWriter writer;
      for (const auto& [key, value] : file.metadata()) writer.set_metadata(key, value);
      for (const auto& name : file.names()) {
        writer.add(name, file.info(name).dtype, file.info(name).shape, file.bytes(name));
      }
      EXPECT_TRUE(writer.to_bytes() == lora::read_file(found.path(), UINT64_MAX));
      ++count;
    }
    EXPECT_GE(count, 1u);
  });
}

// ---- damage

Bytes small_file() {
  SafetensorsWriter writer;
  writer.set_metadata("format", "pt");
  writer.add("weight", lora::Matrix<float>::Random(2, 3), DType::F32);
  writer.add("half.bias", lora::Matrix<float>::Random(1, 3), DType::F16, {3});
  const std::int64_t id = -5;
  writer.add("id", DType::I64, {}, std::as_bytes(std::span(&id, 1)));
  writer.add("nothing", DType::U8, {0, 7}, std::span<const std::byte>());
  return writer.to_bytes();
}

TEST(SafetensorsDamage, ATruncatedFileIsRefusedAtEveryByte) {
  const Bytes whole = small_file();
  ASSERT_EQ(verdict(whole), "accepted");
  for (std::size_t n = 0; n < whole.size(); ++n) {
    EXPECT_NE(verdict(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n))),
              "accepted")
        << n;
  }
  Bytes longer = whole;
  longer.push_back(std::byte{0});
  EXPECT_NE(verdict(longer), "accepted");
}

TEST(SafetensorsDamage, EveryFlippedBitOfTheHeaderIsRefusedOrConsistent) {
  const Bytes whole = small_file();
  std::uint64_t header = 0;
  std::memcpy(&header, whole.data(), 8);
  int accepted = 0, refused = 0;
  for (std::size_t bit = 0; bit < 8 * (8 + header); ++bit) {
    Bytes flipped = whole;
    flipped[bit / 8] ^= std::byte{1} << (bit % 8);
    try {
      const auto file = SafetensorsFile::from_bytes(flipped, "flipped");
      std::uint64_t length = 0;
      std::memcpy(&length, flipped.data(), 8);
      expect_consistent(file, whole.size() - 8 - length);
      ++accepted;
    } catch (const lora::FormatError&) {
      ++refused;
    }
  }
  EXPECT_GT(accepted, 0);  // a letter of a name
  EXPECT_GT(refused, accepted);
}

TEST(SafetensorsDamage, EveryMutantIsRefusedOrConsistent) {
  const Bytes whole = small_file();
  std::uint64_t length = 0;
  std::memcpy(&length, whole.data(), 8);
  const std::string header(lora::as_text(whole).substr(8, length)),
      data(lora::as_text(whole).substr(8 + length));
  const char* tokens[] = {"0",
                          "-1",
                          "1e9",
                          "18446744073709551615",
                          "9223372036854775808",
                          "4294967296",
                          "[",
                          "]",
                          "{",
                          "}",
                          ",",
                          "null",
                          "\"\"",
                          "\"F4\"",
                          "\"F64\"",
                          "\"U8\"",
                          "[0,0]",
                          "__metadata__",
                          "\\u0000"};
  std::mt19937 random(11);
  int accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string text = header;
    for (auto edits = 1 + random() % 3; edits > 0; --edits) {
      const std::size_t at = random() % text.size();
      const std::string token = tokens[random() % std::size(tokens)];
      switch (random() % 4) {
        case 0:
          text.insert(at, token);
          break;
        case 1:
          text.replace(at, token.size(), token);
          break;
        case 2:
          text.erase(at, 1 + random() % 4);
          break;
        default: {  // another digit
          const std::size_t digit = text.find_first_of("0123456789", at);
          if (digit != text.npos) text[digit] = static_cast<char>('0' + random() % 10);
        }
      }
    }
    try {
      expect_consistent(SafetensorsFile::from_bytes(file_of(text, data), "mutant"), data.size());
      ++accepted;
    } catch (const lora::FormatError&) {
    }
  }
  EXPECT_GT(accepted, 100);
}

TEST(SafetensorsDamage, ALieAboutSizesAllocatesNothingOfThatSize) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  const std::string shape = "[1,1000000000000]";
  const Bytes lies[] = {
      file_of("{" + entry("x", "F32", shape, 0, 4) + "}", "1234"),
      file_of("{\"x\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4000000000000]}}",
              "1234"),
      [] {
        Bytes file = file_of("{}");
        const std::uint64_t length = 99'999'999;
        std::memcpy(file.data(), &length, 8);
        return file;
      }()};
  for (const Bytes& lie : lies) {
    lora_test::AllocationCounter counter;
    const std::string message = verdict(lie);
    const auto made = counter.stop();
    EXPECT_NE(message, "accepted");
    EXPECT_LE(made.largest, 4096u) << message;
  }
}

TEST(SafetensorsDamage, FieldsOfTheWrongKindAreNamed) {
  const std::string tensor = "\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]";
  expect_refused(file_of("{\"x\":3}", "1"), "tensor \"x\": is number, expected an object");
  expect_refused(file_of("{\"x\":{}}", "1"), "tensor \"x\": dtype is missing");
  expect_refused(file_of("{\"x\":{\"dtype\":8}}", "1"),
                 "tensor \"x\": dtype is number, expected a string");
  expect_refused(file_of("{\"x\":{\"dtype\":\"U8\"}}", "1"), "tensor \"x\": shape is missing");
  expect_refused(file_of("{\"x\":{\"dtype\":\"U8\",\"shape\":1}}", "1"),
                 "tensor \"x\": shape is number, expected an array");
  expect_refused(file_of("{\"x\":{\"dtype\":\"U8\",\"shape\":[1]}}", "1"),
                 "tensor \"x\": data_offsets is missing");
  expect_refused(file_of("{\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":{}}}", "1"),
                 "tensor \"x\": data_offsets is object, expected an array");
  expect_refused(file_of("{\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1.0]}}", "1"),
                 "tensor \"x\": data_offsets holds 1.0, expected an unsigned integer");
  expect_refused(file_of("{\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-0,1]}}", "1"),
                 "tensor \"x\": data_offsets holds");
  expect_refused(file_of("{\"__metadata__\":[]}"), "__metadata__ is array, expected an object");
  expect_refused(
      file_of(
          "{\"x\":{\"dtype\":\"U8\",\"shape\":[0,9223372036854775808],\"data_offsets\":[0,0]}}"),
      "shape holds 9223372036854775808, which overflows 63 bits");
  expect_refused(
      file_of(
          "{\"x\":{\"dtype\":\"U8\",\"shape\":[0,4294967296,4294967296],\"data_offsets\":[0,0]}}"),
      "overflows 64 bits");
  std::string ones = "[1";
  for (int i = 1; i < 129; ++i) ones += ",1";
  expect_refused(file_of("{" + entry("x", "U8", ones + "]", 0, 1) + "}", "1"),
                 "shape has 129 dimensions, at most 128 are allowed");
  EXPECT_EQ(verdict(file_of("{\"x\":{" + tensor + "}}", "1")), "accepted");
  expect_refused(file_of("{\"x\":{" + tensor + "}}", ""),
                 "but the file has only 0 bytes after the header");
  expect_refused(file_of("{\"a\\n\\u001b[2J\":3}"), "tensor \"a\\x0a\\x1b[2J\": is number");
  expect_refused(bytes_of("<!DOCTYPE html><html>"),
                 "the file begins like text, \"<!DOCTYPE html><html>\"");
}

TEST(SafetensorsDamage, AHeaderMustEndWithinTheFile) {
  for (std::uint64_t beyond = 1; beyond <= 9; ++beyond) {
    Bytes file = file_of("{}");
    const std::uint64_t length = 2 + beyond;
    std::memcpy(file.data(), &length, 8);
    expect_refused(file, "header length is " + std::to_string(length) +
                             ", expected at most 2 (rest of the file)");
  }
}

TEST(SafetensorsDamage, SizesAndAbsenceAreErrors) {
  const lora_test::TemporaryFolder folder;
  const fs::path path = folder.path / "x.safetensors";
  for (const auto storage : {lora::FileStorage::memory, lora::FileStorage::mapped}) {
    EXPECT_HAS(
        message_of<lora::IoError>([&] { SafetensorsFile::open(path, {.storage = storage}); }),
        path.string() + ": cannot open for reading: No such file");
  }
  lora::atomic_write(path, small_file());
  for (const auto storage : {lora::FileStorage::memory, lora::FileStorage::mapped}) {
    EXPECT_HAS(message_of<lora::FormatError>([&] {
                 SafetensorsFile::open(path, {storage, 100});
               }),
               "more than the limit of 100");
  }
}

// ---- reading

TEST(SafetensorsFile, NamesAreInTheOrderOfTheirBytes) {
  const auto file = SafetensorsFile::from_bytes(
      file_of("{" + entry("b", "U8", "[2]", 1, 3) + ",\"__metadata__\":{\"k\":\"v\",\"\":\"\"}," +
                  entry("empty", "F64", "[3,0]", 1, 1) + "," + entry("a", "U8", "[]", 0, 1) +
                  "}  \n",
              "123"),
      "file");
  EXPECT_EQ(file.names(), (std::vector<std::string>{"a", "empty", "b"}));
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"k", "v"}, {"", ""}}));
  EXPECT_EQ(lora::as_text(file.bytes("b")), "23");
  EXPECT_TRUE(file.bytes("empty").empty());
  EXPECT_EQ(file.info("empty").shape, (std::vector<Index>{3, 0}));
  EXPECT_TRUE(file.contains("a"));
  EXPECT_FALSE(file.contains("c"));
  EXPECT_FALSE(file.contains("__metadata__"));
  EXPECT_EQ(file.where(), "file");
}

TEST(SafetensorsFile, MatricesOfEveryShape) {
  SafetensorsWriter writer;
  lora::Matrix<double> m(2, 12);
  for (Index i = 0; i < m.size(); ++i) m.data()[i] = static_cast<double>(i) - 7.25;
  writer.add("two", m, DType::F64);
  writer.add("four", m, DType::F64, {2, 3, 1, 4});
  writer.add("one", m, DType::F64, {24});
  writer.add("zero", m.topLeftCorner(1, 1), DType::F64, {});
  writer.add("rows", lora::Matrix<double>(0, 5), DType::F64);
  writer.add("cols", lora::Matrix<double>(5, 0), DType::F64, {5, 0, 3});
  writer.add("none", lora::Matrix<double>(1, 0), DType::F64, {0});
  const auto file = SafetensorsFile::from_bytes(writer.to_bytes(), "file");
  const auto expect = [&](const char* name, const lora::Matrix<double>& expected) {
    const auto read = file.matrix<double>(name);
    ASSERT_EQ(read.rows(), expected.rows()) << name;
    ASSERT_EQ(read.cols(), expected.cols()) << name;
    EXPECT_TRUE(read == expected) << name;
    EXPECT_TRUE(file.matrix<float>(name) == expected.cast<float>()) << name;
  };
  expect("two", m);
  expect("four", m);
  expect("one", m.reshaped<Eigen::RowMajor>(1, 24));
  expect("zero", m.topLeftCorner(1, 1));
  expect("rows", lora::Matrix<double>(0, 5));
  expect("cols", lora::Matrix<double>(5, 0));
  expect("none", lora::Matrix<double>(1, 0));
}

TEST(SafetensorsFile, UnalignedDataIsRead) {
  const float values[] = {1.5f, -2.25f};
  std::string data = "x";
  data.append(reinterpret_cast<const char*>(values), sizeof values);
  data.append(reinterpret_cast<const char*>(values), 3);
  for (int pad = 0; pad < 8; ++pad) {
    const auto file = SafetensorsFile::from_bytes(
        file_of("{" + entry("a", "U8", "[1]", 0, 1) + "," + entry("f", "F32", "[2]", 1, 9) + "," +
                    entry("h", "U8", "[3]", 9, 12) + "}" +
                    std::string(static_cast<std::size_t>(pad), ' '),
                data),
        "file");
    EXPECT_TRUE(file.matrix<float>("f") == (lora::Matrix<float>(1, 2) << 1.5f, -2.25f).finished());
    EXPECT_TRUE(file.matrix<double>("f") == (lora::Matrix<double>(1, 2) << 1.5, -2.25).finished());
  }
}

TEST(SafetensorsFile, Integers) {
  SafetensorsWriter writer;
  std::vector<Bytes> kept;
  const auto add = [&]<class E>(const char* name, DType dtype, const std::vector<E>& values) {
    const auto bytes = std::as_bytes(std::span(values));
    kept.emplace_back(bytes.begin(), bytes.end());
    writer.add(name, dtype, {static_cast<Index>(values.size())}, kept.back());
  };
  add("I8", DType::I8, std::vector<std::int8_t>{-128, 127});
  add("U8", DType::U8, std::vector<std::uint8_t>{0, 255});
  add("BOOL", DType::BOOL, std::vector<std::uint8_t>{0, 1});
  add("I16", DType::I16, std::vector<std::int16_t>{-32768, 32767});
  add("U16", DType::U16, std::vector<std::uint16_t>{0, 65535});
  add("I32", DType::I32, std::vector<std::int32_t>{INT32_MIN, INT32_MAX});
  add("U32", DType::U32, std::vector<std::uint32_t>{0, UINT32_MAX});
  add("I64", DType::I64, std::vector<std::int64_t>{INT64_MIN, INT64_MAX});
  add("U64", DType::U64, std::vector<std::uint64_t>{0, INT64_MAX});
  add("large", DType::U64, std::vector<std::uint64_t>{0, std::uint64_t{1} << 63});
  add("two", DType::BOOL, std::vector<std::uint8_t>{0, 1, 2});
  add("F16", DType::F16, std::vector<std::uint16_t>{0});
  const auto file = SafetensorsFile::from_bytes(writer.to_bytes(), "file");
  using Integers = std::vector<std::int64_t>;
  EXPECT_EQ(file.integers("I8"), (Integers{-128, 127}));
  EXPECT_EQ(file.integers("U8"), (Integers{0, 255}));
  EXPECT_EQ(file.integers("BOOL"), (Integers{0, 1}));
  EXPECT_EQ(file.integers("I16"), (Integers{-32768, 32767}));
  EXPECT_EQ(file.integers("U16"), (Integers{0, 65535}));
  EXPECT_EQ(file.integers("I32"), (Integers{INT32_MIN, INT32_MAX}));
  EXPECT_EQ(file.integers("U32"), (Integers{0, UINT32_MAX}));
  EXPECT_EQ(file.integers("I64"), (Integers{INT64_MIN, INT64_MAX}));
  EXPECT_EQ(file.integers("U64"), (Integers{0, INT64_MAX}));
  const auto refused = [&](const char* name) {
    return message_of<lora::FormatError>([&] { file.integers(name); });
  };
  EXPECT_EQ(refused("large"),
            "file: tensor \"large\": element 1 is 9223372036854775808, which overflows a signed "
            "integer of 64 bits");
  EXPECT_EQ(refused("two"), "file: tensor \"two\": element 2 is 2, expected 0 or 1");
  EXPECT_EQ(refused("F16"), "file: tensor \"F16\": dtype is F16, expected integers or BOOL");
  EXPECT_HAS(refused("I12"), "file: has no tensor \"I12\"; it holds 12 tensors: \"U64\", ");
  EXPECT_EQ(message_of<lora::FormatError>([&] { file.matrix<float>("I8"); }),
            "file: tensor \"I8\": dtype is I8, expected F32, F64, BF16 or F16");
  EXPECT_HAS(message_of<lora::FormatError>([&] { file.bytes("absent"); }),
             "file: has no tensor \"absent\"");
}

// ---- writing

TEST(SafetensorsWriter, EveryTypeComesBackBitForBit) {
  std::mt19937 random(3);
  std::vector<Bytes> contents;
  SafetensorsWriter writer;
  for (const auto& type : lora::all_dtypes) {
    Bytes bytes(24 * type.bits / 8);
    for (auto& byte : bytes) byte = static_cast<std::byte>(random());
    contents.push_back(std::move(bytes));
  }
  for (const auto& type : lora::all_dtypes) {
    writer.add(std::string(type.name), type.dtype, {2, 3, 4},
               contents[static_cast<std::size_t>(type.dtype)]);
  }
  writer.set_metadata("format", "pt");
  writer.set_metadata("\"\\\n", "\xC3\xBC");
  const lora_test::TemporaryFolder folder;
  const fs::path path = folder.path / "all.safetensors";
  writer.write(path);
  EXPECT_TRUE(lora::read_file(path, UINT64_MAX) == writer.to_bytes());
  for (const auto storage : {lora::FileStorage::memory, lora::FileStorage::mapped}) {
    auto opened = SafetensorsFile::open(path, {.storage = storage});
    const SafetensorsFile file = std::move(opened);
    EXPECT_EQ(file.names().size(), lora::all_dtypes.size());
    EXPECT_EQ(file.metadata().at("\"\\\n"), "\xC3\xBC");
    for (const auto& type : lora::all_dtypes) {
      const std::string name(type.name);
      EXPECT_EQ(file.info(name).dtype, type.dtype);
      EXPECT_EQ(file.info(name).shape, (std::vector<Index>{2, 3, 4}));
      const auto bytes = file.bytes(name);
      EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(),
                             contents[static_cast<std::size_t>(type.dtype)].begin(),
                             contents[static_cast<std::size_t>(type.dtype)].end()))
          << name;
    }
  }
}

template <class S, class Bits>
void expect_special_values_kept(DType dtype) {
  const Bits sign = Bits{1} << (8 * sizeof(Bits) - 1);
  const Bits infinity = std::bit_cast<Bits>(std::numeric_limits<S>::infinity());
  const std::vector<Bits> patterns = {0,
                                      sign,
                                      1,
                                      sign | 1,
                                      infinity,
                                      sign | infinity,
                                      infinity | 1,
                                      infinity | 0x1234,
                                      sign | (infinity + 0x77),
                                      ~Bits{0},
                                      infinity - 1};
  lora::Matrix<S> m(1, static_cast<Index>(patterns.size()));
  std::memcpy(m.data(), patterns.data(), patterns.size() * sizeof(Bits));
  SafetensorsWriter writer;
  writer.add("m", m, dtype);
  const auto read = SafetensorsFile::from_bytes(writer.to_bytes(), "file").matrix<S>("m");
  EXPECT_EQ(std::memcmp(read.data(), patterns.data(), patterns.size() * sizeof(Bits)), 0);
}
TEST(SafetensorsWriter, MatricesKeepNaNPayloadsZerosAndDenormals) {
  expect_special_values_kept<float, std::uint32_t>(DType::F32);
  expect_special_values_kept<double, std::uint64_t>(DType::F64);
}

TEST(SafetensorsWriter, HalfMatricesWidenExactlyAndComeBack) {
  for (const DType dtype : {DType::F16, DType::BF16}) {
    std::vector<std::uint16_t> patterns;
    for (unsigned h = 0; h <= 0xFFFF; ++h) patterns.push_back(static_cast<std::uint16_t>(h));
    SafetensorsWriter writer;
    writer.add("h", dtype, {65536}, std::as_bytes(std::span(patterns)));
    const auto file = SafetensorsFile::from_bytes(writer.to_bytes(), "file");
    const auto f = file.matrix<float>("h");
    const auto d = file.matrix<double>("h");
    SafetensorsWriter again;
    again.add("f", f, dtype, {65536});
    again.add("d", d, dtype, {65536});
    const auto copy = SafetensorsFile::from_bytes(again.to_bytes(), "file");
    for (Index i = 0; i < 65536; ++i) {
      if (std::isnan(f(0, i))) {
        ASSERT_TRUE(std::isnan(d(0, i)));
        continue;
      }
      ASSERT_EQ(static_cast<double>(f(0, i)), d(0, i));
      for (const char* name : {"f", "d"}) {
        std::uint16_t h = 0;
        std::memcpy(&h, copy.bytes(name).data() + 2 * i, 2);
        ASSERT_EQ(h, patterns[static_cast<std::size_t>(i)]);
      }
    }
  }
}

// A double just past the middle between two halves lies on the middle after rounding to float;
// rounding twice would send it to even.
TEST(SafetensorsWriter, DoublesAreRoundedOnce) {
  const double tiny = 0x1p-45;
  struct Row {
    DType dtype;
    double value, expected;
  };
  const double past_f16 = 0x1p-40;
  const std::vector<Row> rows = {{DType::BF16, 1 + 0x1p-8, 1.0},
                                 {DType::BF16, 1 + 0x1p-8 + tiny, 1 + 0x1p-7},
                                 {DType::BF16, -(1 + 0x1p-8 + tiny), -(1 + 0x1p-7)},
                                 {DType::BF16, 1 + 3 * 0x1p-8 - tiny, 1 + 0x1p-7},
                                 {DType::BF16, 1 + 3 * 0x1p-8, 1 + 0x1p-6},
                                 {DType::F16, 1 + 0x1p-11, 1.0},
                                 {DType::F16, 1 + 0x1p-11 + past_f16, 1 + 0x1p-10},
                                 {DType::F16, 1 + 3 * 0x1p-11 - past_f16, 1 + 0x1p-10},
                                 {DType::F16, 65520 - 1e-6, 65504},
                                 {DType::F16, 65520, INFINITY},
                                 {DType::F16, -1e300, -INFINITY},
                                 {DType::BF16, 1e300, INFINITY},
                                 {DType::F16, 0x1p-25, 0.0},
                                 {DType::F16, 0x1p-25 + 0x1p-70, 0x1p-24},
                                 {DType::F16, 1e-300, 0.0},
                                 {DType::BF16, 0x1p-134 + 0x1p-180, 0x1p-133},
                                 {DType::BF16, 0x1p-134, 0.0},
                                 {DType::F32, 1 + 0x1p-24, 1.0},
                                 {DType::F32, 1 + 0x1p-24 + 0x1p-50, 1 + 0x1p-23},
                                 {DType::F32, 1e300, INFINITY}};
  for (const Row& row : rows) {
    SafetensorsWriter writer;
    writer.add("x", lora::Matrix<double>::Constant(1, 1, row.value), row.dtype);
    EXPECT_EQ(SafetensorsFile::from_bytes(writer.to_bytes(), "file").matrix<double>("x")(0, 0),
              row.expected)
        << lora::dtype_name(row.dtype) << " " << row.value;
  }
  SafetensorsWriter writer;
  writer.add("x", lora::Matrix<float>::Constant(1, 1, 1.1f), DType::F64);
  EXPECT_EQ(SafetensorsFile::from_bytes(writer.to_bytes(), "file").matrix<double>("x")(0, 0),
            static_cast<double>(1.1f));
}

TEST(SafetensorsWriter, HeaderIsPaddedAndTheWidestTypesComeFirst) {
  SafetensorsWriter writer;
  writer.add("z", lora::Matrix<float>::Zero(1, 3), DType::F32);
  writer.add("a", lora::Matrix<float>::Zero(1, 3), DType::BF16);
  writer.add("y", lora::Matrix<float>::Zero(1, 3), DType::F32);
  writer.add("d", lora::Matrix<float>::Zero(1, 3), DType::F64);
  writer.add("b", lora::Matrix<float>::Zero(1, 3), DType::F16);
  const Bytes bytes = writer.to_bytes();
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  EXPECT_EQ(length % 8, 0u);
  const std::string header =
      "{" + entry("d", "F64", "[1,3]", 0, 24) + "," + entry("y", "F32", "[1,3]", 24, 36) + "," +
      entry("z", "F32", "[1,3]", 36, 48) + "," + entry("a", "BF16", "[1,3]", 48, 54) + "," +
      entry("b", "F16", "[1,3]", 54, 60) + "}";
  const std::string written(lora::as_text(bytes).substr(8, length));
  EXPECT_EQ(written.substr(0, header.size()), header);
  EXPECT_EQ(written.find_first_not_of(' ', header.size()), written.npos);
  EXPECT_EQ(verdict(SafetensorsWriter().to_bytes()), "accepted");
  EXPECT_EQ(lora::as_text(SafetensorsWriter().to_bytes()).substr(8), "{}      ");
  SafetensorsWriter only_metadata;
  only_metadata.set_metadata("k", "v");
  EXPECT_EQ(SafetensorsFile::from_bytes(only_metadata.to_bytes(), "file").metadata().at("k"), "v");
}

TEST(SafetensorsWriter, StridedAndColumnMajorMatricesAreWrittenByRows) {
  Eigen::MatrixXf columns(2, 3);
  columns << 1, 2, 3, 4, 5, 6;
  SafetensorsWriter writer;
  writer.add("columns", columns, DType::F32);
  writer.add("transposed", columns.transpose(), DType::F32);
  writer.add("block", columns.rightCols(2), DType::F32);
  const auto file = SafetensorsFile::from_bytes(writer.to_bytes(), "file");
  EXPECT_TRUE(file.matrix<float>("columns") == columns);
  EXPECT_TRUE(file.matrix<float>("transposed") == columns.transpose());
  EXPECT_TRUE(file.matrix<float>("block") == columns.rightCols(2));
}

TEST(SafetensorsWriter, RefusesWhatWouldNotBeAValidFile) {
  SafetensorsWriter writer;
  const lora::Matrix<float> m = lora::Matrix<float>::Zero(2, 3);
  writer.add("x", m, DType::F32);
  const Bytes before = writer.to_bytes();
  const auto refused = [&]<class E>(E*, const std::string& name, DType dtype,
                                    std::vector<Index> shape) {
    return message_of<E>([&] { writer.add(name, m, dtype, shape); });
  };
  lora::ConfigError* config = nullptr;
  lora::ShapeError* shape = nullptr;
  EXPECT_HAS(refused(config, "x", DType::F32, {2, 3}),
             "SafetensorsWriter: tensor \"x\": added twice");
  EXPECT_HAS(refused(config, "x", DType::F16, {2, 3}),
             "SafetensorsWriter: tensor \"x\": added twice");
  EXPECT_HAS(refused(config, "", DType::F32, {2, 3}), "the format allows no tensor of this name");
  EXPECT_HAS(refused(config, "__metadata__", DType::F32, {2, 3}),
             "\"__metadata__\": the format allows no tensor");
  EXPECT_HAS(refused(config, "a\xFF", DType::F32, {2, 3}), "is not valid UTF-8");
  EXPECT_HAS(refused(config, "y", DType::I32, {2, 3}),
             "dtype is I32, expected F32, F64, BF16 or F16");
  EXPECT_HAS(refused(shape, "y", DType::F32, {2, 4}),
             "24 bytes given, expected 32 for shape [2, 4] of F32");
  EXPECT_HAS(refused(shape, "y", DType::F32, {-2, -3}), "shape [-2, -3] has a negative dimension");
  EXPECT_HAS(refused(shape, "y", DType::F32, {Index{1} << 32, Index{1} << 32}),
             "overflows 64 bits");
  EXPECT_HAS(message_of<lora::ShapeError>(
                 [&] { writer.add("y", DType::F4, {3}, std::span<const std::byte>{}); }),
             "shape [3] of F4 does not fill whole bytes");
  EXPECT_HAS(message_of<lora::ConfigError>([&] { writer.set_metadata("k\xFF", "v"); }),
             "metadata key: ");
  EXPECT_HAS(message_of<lora::ConfigError>([&] { writer.set_metadata("k", "\xED\xA0\x80"); }),
             "metadata \"k\": ");
  EXPECT_TRUE(writer.to_bytes() == before) << "a refused call changes nothing";
  float value = 0;
  std::byte byte{};
  EXPECT_HAS(message_of<lora::ConfigError>(
                 [&] { lora::decode_elements(DType::I8, &byte, std::span<float>(&value, 1)); }),
             "decode_elements: I8, expected");
  EXPECT_HAS(message_of<lora::ConfigError>([&] {
               lora::encode_elements(DType::I8, std::span<const float>(&value, 1), &byte);
             }),
             "encode_elements: I8, expected");
}

TEST(SafetensorsWriter, AHeaderAboveTheLimitIsRefused) {
  SafetensorsWriter writer;
  writer.set_metadata("k", std::string(100'000'000, 'v'));
  EXPECT_HAS(message_of<lora::ConfigError>([&] { writer.to_bytes(); }),
             "bytes, the format allows 100000000");
}

TEST(SafetensorsWriter, AFileThatIsOpenMayBeWrittenOver) {
  const lora_test::TemporaryFolder folder;
  const fs::path path = folder.path / "x.safetensors";
  for (const auto storage : {lora::FileStorage::memory, lora::FileStorage::mapped}) {
    const lora::Matrix<float> first = lora::Matrix<float>::Random(301, 17);
    {
      SafetensorsWriter writer;
      writer.add("x", first, DType::F32);
      writer.write(path);
    }
    const auto file = SafetensorsFile::open(path, {.storage = storage});
    SafetensorsWriter writer;
    writer.add("x", DType::F32, {17, 301}, file.bytes("x"));  // from the very file that it replaces
    writer.add("y", lora::Matrix<float>::Ones(1, 5), DType::F32);
    writer.write(path);
    EXPECT_TRUE(file.matrix<float>("x") == first);
    const auto replaced = SafetensorsFile::open(path);
    EXPECT_EQ(replaced.info("x").shape, (std::vector<Index>{17, 301}));
    EXPECT_TRUE(std::ranges::equal(replaced.bytes("x"), file.bytes("x")));
    EXPECT_TRUE(replaced.matrix<double>("y") == lora::Matrix<double>::Ones(1, 5));
  }
}

TEST(SafetensorsWriter, AFailedWriteLeavesTheOldFile) {
  const lora_test::TemporaryFolder folder;
  const fs::path path = folder.path / "x.safetensors";
  const Bytes old = small_file();
  lora::atomic_write(path, old);
  lora_test::FileCalls full = lora_test::posix_calls();
  full.write = [](int, const void*, std::size_t) -> ssize_t {
    errno = ENOSPC;
    return -1;
  };
  EXPECT_HAS(message_of<lora::IoError>(
                 [&] { lora_test::with_calls(full, [&] { SafetensorsWriter().write(path); }); }),
             path.string() + ": cannot write: No space left");
  EXPECT_TRUE(lora::read_file(path, UINT64_MAX) == old);
}

TEST(SafetensorsWriter, ComputedTensorsAreWrittenAsOthersAre) {
  const Bytes values = bytes_of("abcdefgh");
  SafetensorsWriter at_once, in_parts;
  int runs = 0;
  for (SafetensorsWriter* writer : {&at_once, &in_parts})
    writer->add("b", DType::U8, {3}, std::span(values).first(3));
  at_once.add("a", DType::I16, {2, 2}, values);
  in_parts.add_computed("a", DType::I16, {2, 2}, [&](const SafetensorsWriter::ByteSink& sink) {
    ++runs;
    sink(std::span(values).first(5));
    sink({});
    sink(std::span(values).subspan(5));
  });
  EXPECT_EQ(runs, 0);
  EXPECT_EQ(in_parts.to_bytes(), at_once.to_bytes());
  const lora_test::TemporaryFolder folder;
  in_parts.write(folder.path / "file");
  EXPECT_EQ(lora::read_file(folder.path / "file", 1 << 20), at_once.to_bytes());
  EXPECT_EQ(runs, 2);
}

TEST(SafetensorsWriter, AComputedTensorOfAnotherSizeLeavesTheOldFile) {
  const lora_test::TemporaryFolder folder;
  const fs::path path = folder.path / "file";
  lora::atomic_write(path, "old");
  const auto failure = [&](const std::vector<std::size_t>& sizes) {
    SafetensorsWriter writer;
    writer.add_computed("a", DType::U8, {4}, [&](const SafetensorsWriter::ByteSink& sink) {
      for (const std::size_t size : sizes) sink(Bytes(size));
    });
    try {
      writer.write(path);
    } catch (const lora::Error& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  const std::string about = "SafetensorsWriter: tensor \"a\": was computed with ";
  EXPECT_EQ(failure({3, 2}), about + "more than the 4 bytes of its shape");
  EXPECT_EQ(failure({3}), about + "fewer than the 4 bytes of its shape");
  EXPECT_EQ(failure({}), about + "fewer than the 4 bytes of its shape");
  EXPECT_EQ(lora::read_file(path, 10), bytes_of("old"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()), 1);
}

TEST(DType, NamesAndWidths) {
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < lora::all_dtypes.size(); ++i) {
    const auto& type = lora::all_dtypes[i];
    EXPECT_EQ(static_cast<std::size_t>(type.dtype), i);
    EXPECT_EQ(lora::dtype_from_name(lora::dtype_name(type.dtype)), type.dtype);
    EXPECT_TRUE(names.insert(type.name).second);
    if (i > 0 && type.bits < lora::all_dtypes[i - 1].bits) {
      // The reference sorts BOOL as the lowest, whatever its width.
      EXPECT_EQ(lora::all_dtypes[i - 1].dtype, DType::BOOL);
    }
  }
  EXPECT_EQ(lora::dtype_from_name("f32"), std::nullopt);
  EXPECT_EQ(lora::dtype_from_name(""), std::nullopt);
}

// ---- the helper of the golden tests

TEST(IsClose, ComparesRelativeToTheLargestAndFailsOnNaN) {
  lora::Matrix<double> expected(2, 2), actual;
  expected << 1, -10, 0, 2;
  actual = expected;
  EXPECT_TRUE(lora_test::is_close(actual, expected, 0));
  actual(1, 0) = 0.99e-3;
  EXPECT_TRUE(lora_test::is_close(actual, expected, 1e-4));
  actual(1, 0) = 1.01e-3;
  const auto off = lora_test::is_close(actual, expected, 1e-4);
  EXPECT_FALSE(off);
  EXPECT_HAS(off.message(), "1 of 4 elements are off; worst at (1, 0): 0.00101, expected 0");
  actual = expected;
  actual(0, 1) = NAN;
  EXPECT_HAS(lora_test::is_close(actual, expected, 1e9).message(), "worst at (0, 1): nan");
  EXPECT_FALSE(lora_test::is_close(expected, actual, 1e9));
  actual(0, 1) = INFINITY;
  EXPECT_FALSE(lora_test::is_close(actual, expected, 1e9));
  EXPECT_TRUE(lora_test::is_close(actual, actual, 0));
  expected.setZero();
  actual.setZero();
  EXPECT_TRUE(lora_test::is_close(actual, expected, 1e-9));
  actual(0, 0) = 1e-300;
  EXPECT_FALSE(lora_test::is_close(actual, expected, 1e-9));
  EXPECT_HAS(lora_test::is_close(lora::Matrix<float>(1, 2), expected, 1).message(),
             "shape is (1, 2), expected (2, 2)");
  EXPECT_EQ(lora_test::golden_bound(2), 20 * std::numeric_limits<double>::epsilon() / 2);
}

}  // namespace safetensors_test
