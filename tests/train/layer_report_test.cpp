#include <lora/train/layer_report.hpp>

#include <gtest/gtest.h>

#include "support/gradcheck.hpp"
#include "support/shared.hpp"
#include "train/toy.hpp"

namespace layer_report_test {
using namespace lora;
using namespace lora_test;

TEST(LayerReport, MeasuresTheChangeOfTheWeight) {
  Toy model = toy_model();
  model.for_each_parameter("", [](const NamePath& name, Parameter<float>& p) {
    if (!p.trainable) return;
    fill_normal(p.value, RandomStream(1, name.str()), 1.0);
    fill_normal(p.grad, RandomStream(2, name.str()), 1.0);
  });
  std::map<std::string, double> norms;
  const std::vector<LayerChange> changes = layer_changes(model, norms);
  ASSERT_EQ(changes.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    const auto& layer = model.base().layers()[i];
    const auto& adapter = layer.adapters().get("default");
    const Matrix<double> delta =
        2.0 * adapter.B.value.template cast<double>() * adapter.A.value.template cast<double>();
    const double weight = layer.weight().dense().template cast<double>().norm();
    EXPECT_EQ(changes[i].layer, "layers." + std::to_string(i));
    EXPECT_NEAR(changes[i].relative_change, delta.norm() / weight, 1e-12);
    const double gradient = std::sqrt(adapter.A.grad.template cast<double>().squaredNorm() +
                                      adapter.B.grad.template cast<double>().squaredNorm());
    EXPECT_NEAR(changes[i].grad_norm, gradient, 1e-5 * gradient);
    EXPECT_NEAR(norms["layers." + std::to_string(i)], weight, 1e-12);
  }
}

TEST(LayerReport, OfDoRAMeasuresWhatMergingChanges) {
  LoRAConfig config;
  config.target_modules = std::vector<std::string>{"layers.0"};
  config.r = 2;
  config.use_dora = true;
  LoRAModel<MLP<float>> model(toy_model().unload(), config);
  model.for_each_parameter("", [](const NamePath& name, Parameter<float>& p) {
    if (!p.trainable) return;
    p.value += random_matrix<float>(p.value.rows(), p.value.cols(), name.str(), 0.5);
    fill_normal(p.grad, RandomStream(2, name.str()), 1.0);
  });
  std::map<std::string, double> norms;
  const std::vector<LayerChange> changes = layer_changes(model, norms);
  ASSERT_EQ(changes.size(), 1u);
  const auto& layer = model.base().layers()[0];
  const Matrix<double> W = layer.weight().dense().template cast<double>();
  const Matrix<double> merged = layer.prepare_merge().weight.dense().template cast<double>();
  EXPECT_NEAR(changes[0].relative_change, (merged - W).norm() / W.norm(), 1e-5);
  double squares = 0;
  for (const auto& tensor : {layer.adapters().get("default").A, layer.adapters().get("default").B,
                             layer.adapters().get("default").own[0].parameter})
    squares += tensor.grad.template cast<double>().squaredNorm();
  EXPECT_NEAR(changes[0].grad_norm, std::sqrt(squares), 1e-5 * std::sqrt(squares));
}

TEST(LayerReport, IsWrittenAsARunGoes) {
  const TemporaryFolder folder;
  Toy model = toy_model();
  ToyTrainer trainer(model, toy_arguments(), toy_task(), toy_examples());
  trainer.add_callback(
      std::make_shared<LayerReport<MLP<float>>>(model, folder.path / "layers.jsonl", 5));
  trainer.train();
  std::ifstream file(folder.path / "layers.jsonl");
  std::vector<Json> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(parse_json(line, "line"));
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[2]["step"], 15);
  double squares = 0;
  for (const char* name : {"layers.0", "layers.1"}) {
    const Json& layer = lines[2]["layers"][name];
    EXPECT_GT(layer["relative_change"].get<double>(), 0);
    squares += std::pow(layer["grad_norm"].get<double>(), 2);
  }
  // All that is trained is in the two layers.
  const double norm = trainer.state().log_history[14]["grad_norm"].get<double>();
  EXPECT_NEAR(std::sqrt(squares), norm, 1e-5 * norm);
}

TEST(LayerReport, NeedsAnInterval) {
  Toy model = toy_model();
  EXPECT_EQ(message_of<ConfigError>([&] { LayerReport<MLP<float>>(model, "x", 0); }),
            "LayerReport: every is 0, expected at least 1");
}

}  // namespace layer_report_test
