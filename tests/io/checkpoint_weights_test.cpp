#include <lora/io/hf/checkpoint_weights.hpp>
#include <lora/io/safetensors/safetensors_writer.hpp>

#include <gtest/gtest.h>

#include <fstream>

#include "support/messages.hpp"
#include "support/shared.hpp"
#include "support/threads.hpp"

namespace checkpoint_weights_test {
using namespace lora;
using lora_test::TemporaryFolder;

template <class S = float>
Matrix<S> numbers(Index rows, Index cols, const char* name) {
  Matrix<S> m(rows, cols);
  fill_uniform(m, RandomStream(1, name), -1, 1);
  return m;
}

/// What a model with an embedding, one layer and a head asks of a source.
template <class S>
struct Asked {
  FrozenWeight<S> table, projection, head;
  Matrix<S> norm;

  template <class Source>
  Asked(Source& source, bool tied, Layout layout = Layout::out_in)
      : table(source.matrix("model.embed_tokens.weight", 50, 6, Layout::out_in)),
        projection(source.matrix("model.layers.0.proj.weight", 7, 6, layout)),
        head(tied ? table : source.matrix("lm_head.weight", 50, 6, Layout::out_in)),
        norm(source.vector("model.norm.weight", 6)) {}
};

struct Written {
  TemporaryFolder folder;
  Matrix<float> table = numbers(50, 6, "table"), projection = numbers(7, 6, "projection"),
                head = numbers(50, 6, "head"), norm = numbers(1, 6, "norm");
  SafetensorsWriter writer;

  explicit Written(DType dtype = DType::F32, const std::string& top = "model.") {
    writer.add(top + "embed_tokens.weight", table, dtype);
    writer.add(top + "layers.0.proj.weight", projection, dtype);
    writer.add(top + "norm.weight", norm, dtype, {6});
  }
  CheckpointFiles files() {
    writer.write(folder.path / checkpoint_file);
    return CheckpointFiles::open(folder.path);
  }
  /// What the check says of a tied model.
  std::string verdict(bool tied = true) {
    const CheckpointFiles opened = files();
    CheckpointCheck<float> check(opened);
    const Asked<float> model(check, tied);
    EXPECT_EQ(model.table.size(), 0) << "the check loads nothing";
    try {
      check.finish("model.embed_tokens.weight");
    } catch (const FormatError& error) {
      return error.what();
    }
    return "accepted";
  }
};

TEST(CheckpointWeights, AreTheFilesInEveryType) {
  for (const DType dtype : {DType::F32, DType::BF16, DType::F16, DType::F64}) {
    Written written(dtype);
    written.writer.add("lm_head.weight", written.head, dtype);
    EXPECT_EQ(written.verdict(false), "accepted");
    const CheckpointFiles files = written.files();
    CheckpointWeights<float> source(files);
    const Asked<float> model(source, false);
    CheckpointWeights<double> wide(files);
    const Asked<double> exact(wide, false);
    const auto& stored = files.file_of("lm_head.weight");
    EXPECT_EQ(model.table.stored(), stored.matrix<float>("model.embed_tokens.weight"));
    EXPECT_EQ(model.projection.stored(), stored.matrix<float>("model.layers.0.proj.weight"));
    EXPECT_EQ(model.head.stored(), stored.matrix<float>("lm_head.weight"));
    EXPECT_EQ(model.norm, stored.matrix<float>("model.norm.weight"));
    EXPECT_EQ(exact.head.stored(), stored.matrix<double>("lm_head.weight"));
    EXPECT_EQ(exact.norm, stored.matrix<double>("model.norm.weight"));
  }
}

TEST(CheckpointWeights, AreRoundedOnceToBfloat16) {
  for (const DType dtype : {DType::F32, DType::BF16, DType::F16}) {
    Written written(dtype);
    const CheckpointFiles files = written.files();
    CheckpointWeights<float> source(files, {Precision::bfloat16});
    const Asked<float> model(source, true);
    const Matrix<float> given =
        files.file_of("model.norm.weight").matrix<float>("model.embed_tokens.weight");
    const Matrix<float> rounded =
        given.unaryExpr([](float x) { return bf16_to_float(float_to_bf16(x)); });
    EXPECT_EQ(model.table.stored(), rounded);
    EXPECT_LT(model.table.bytes(), 50 * 6 * 4);
    EXPECT_TRUE(model.head.shares_storage_with(model.table));
  }
}

TEST(CheckpointWeights, InBothOrientationsTakeTheMemoryTwiceAndGiveTheSameBits) {
  Written written;
  const CheckpointFiles files = written.files();
  for (const Precision precision : {Precision::float32, Precision::bfloat16}) {
    CheckpointWeights<float> one(files, {precision}), both(files, {precision, Orientations::both});
    const FrozenWeight<float> a = Asked<float>(one, true).table, b = Asked<float>(both, true).table;
    EXPECT_EQ(b.stored(), a.stored());
    // (50, 6) and (6, 50): the last panel of either has the memory of 16 outputs.
    EXPECT_GE(b.bytes(), a.bytes() + 50 * 6 * (precision == Precision::float32 ? 4 : 2));
    const Matrix<float> dy = numbers(3, 50, "dy");
    Matrix<float> dx(3, 6), again(3, 6);
    a.multiply_transposed(dy, dx);
    b.multiply_transposed(dy, again);
    EXPECT_EQ(again, dx);
  }
}

TEST(CheckpointWeights, KeepTheFilesOrientation) {
  Written written;
  const CheckpointFiles files = written.files();
  CheckpointWeights<float> source(files);
  const FrozenWeight<float> weight =
      source.matrix("model.layers.0.proj.weight", 6, 7, Layout::in_out);
  EXPECT_EQ(weight.rows(), 6);
  EXPECT_EQ(weight.stored(), written.projection);
  CheckpointCheck<float> check(files);
  check.matrix("model.layers.0.proj.weight", 6, 7, Layout::in_out);
  check.matrix("model.embed_tokens.weight", 50, 6, Layout::out_in);
  check.vector("model.norm.weight", 6);
  EXPECT_NO_THROW(check.finish("model.embed_tokens.weight"));
}

// Large enough for pages to be given back while it is read, by several threads, from a file whose
// data begin at an odd address.
TEST(CheckpointWeights, AreReadWholeWhilePagesAreGivenBack) {
  const TemporaryFolder folder;
  const Matrix<float> large = numbers(3000, 211, "large");
  SafetensorsWriter writer;
  writer.add("a", large, DType::F32);
  std::vector<std::byte> bytes = writer.to_bytes();
  bytes.insert(bytes.begin() + 8, std::byte{' '});
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  ++length;
  std::memcpy(bytes.data(), &length, 8);
  atomic_write(folder.path / checkpoint_file, bytes);
  const CheckpointFiles files = CheckpointFiles::open(folder.path);
  for (const int threads : {1, 3}) {
    const lora_test::Threads limit(threads);
    CheckpointWeights<float> source(files);
    EXPECT_EQ(source.matrix("a", 3000, 211, Layout::out_in).stored(), large);
  }
}

TEST(CheckpointWeights, OfAModelWithoutItsHeadAreFound) {
  Written written(DType::F32, "");
  EXPECT_EQ(written.verdict(), "accepted");
  const CheckpointFiles files = written.files();
  CheckpointWeights<float> source(files);
  EXPECT_EQ(Asked<float>(source, true).table.stored(), written.table);
}

TEST(CheckpointWeights, RefuseWhatTheCheckWouldHaveRefused) {
  Written written;
  const CheckpointFiles files = written.files();
  CheckpointWeights<float> source(files);
  const auto message = [&](const char* name, Index n) {
    try {
      source.vector(name, n);
    } catch (const FormatError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_HAS(message("model.norm.weight", 7),
             "tensor \"model.norm.weight\": shape is [6] of F32, expected [7] of F32");
  EXPECT_HAS(message("model.other.weight", 7), "has no tensor \"model.other.weight\"");
}

TEST(CheckpointCheck, NamesEverythingAtOnce) {
  Written written;
  SafetensorsWriter& writer = written.writer;
  writer.add("model.layers.0.extra.weight", written.norm, DType::F32);
  const std::vector<std::byte> integers(8);
  writer.add("model.count", DType::I64, {1}, integers);
  const CheckpointFiles files = written.files();
  CheckpointCheck<float> check(files);
  check.matrix("model.embed_tokens.weight", 51, 6, Layout::out_in);
  check.matrix("model.layers.1.proj.weight", 7, 6, Layout::out_in);
  check.matrix("lm_head.weight", 50, 6, Layout::out_in);
  check.vector("model.count", 1);
  try {
    check.finish("model.embed_tokens.weight");
    FAIL();
  } catch (const FormatError& error) {
    EXPECT_EQ(std::string(error.what()),
              written.folder.path.string() +
                  ": does not hold the model of its config.json:"
                  "\n  model.embed_tokens.weight: shape is [50, 6], expected [51, 6]"
                  "\n  missing: model.layers.1.proj.weight"
                  "\n  missing: lm_head.weight (is it the embedding? then the configuration lacks "
                  "tie_word_embeddings)"
                  "\n  model.count: dtype is I64, expected F32, F64, BF16 or F16"
                  "\n  unexpected: model.layers.0.extra.weight"
                  "\n  unexpected: model.layers.0.proj.weight"
                  "\n  unexpected: model.norm.weight");
  }
}

TEST(CheckpointCheck, LeavesOutWhatModelsCompute) {
  Written written;
  written.writer.add("model.layers.0.rotary_emb.inv_freq", written.norm, DType::F32);
  written.writer.add("h.0.attn.bias", written.norm, DType::F32);
  written.writer.add("h.0.attn.masked_bias", written.norm, DType::F32);
  EXPECT_EQ(written.verdict(), "accepted");
  written.writer.add("lm_head.weight", written.table, DType::F32);
  EXPECT_EQ(written.verdict(), "accepted") << "it is the embedding once more";
}

TEST(CheckpointCheck, RefusesAHeadThatIsNotTheTiedEmbedding) {
  Written written;
  written.writer.add("lm_head.weight", written.head, DType::F32);
  EXPECT_HAS(written.verdict(), "lm_head.weight: is not model.embed_tokens.weight, though");
  Written other;
  other.writer.add("lm_head.weight", other.table, DType::BF16);
  EXPECT_HAS(other.verdict(), "(tie_word_embeddings)");
}

TEST(CheckpointWeights, NumbersTooLargeForTheModelAreRefused) {
  for (const char* name : {"table", "norm"}) {
    TemporaryFolder folder;
    const bool in_table = std::string(name) == "table";
    Matrix<double> table = Matrix<double>::Zero(50, 6), norm = Matrix<double>::Zero(1, 6);
    (in_table ? table(2, 1) : norm(0, 1)) = 1e300;
    SafetensorsWriter writer;
    writer.add("model.embed_tokens.weight", table, DType::F64);
    writer.add("model.layers.0.proj.weight", Matrix<double>(Matrix<double>::Zero(7, 6)),
               DType::F64);
    writer.add("model.norm.weight", norm, DType::F64, {6});
    writer.write(folder.path / checkpoint_file);
    const CheckpointFiles files = CheckpointFiles::open(folder.path);
    CheckpointWeights<float> source(files);
    try {
      const Asked<float> model(source, true);
      ADD_FAILURE() << "nothing was thrown";
    } catch (const FormatError& error) {
      EXPECT_HAS(std::string(error.what()),
                 in_table ? "tensor \"model.embed_tokens.weight\": element 13 is 1e+300, too large"
                          : "tensor \"model.norm.weight\": element 1 is 1e+300, too large for F32");
    }
    CheckpointWeights<double> wide(files);
    EXPECT_NO_THROW(Asked<double>(wide, true));
  }
}

}  // namespace checkpoint_weights_test
