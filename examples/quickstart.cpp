// LoRA on matrices of your own: wrap them, train, save the adapter, merge.
#include <lora/io/peft/adapter_file.hpp>
#include <lora/lora.hpp>

#include <cstdio>

using Matrix = lora::Matrix<float>;

int main() {
  // A pretrained network: here random matrices stand for yours. Weights are (out, in), a row of x
  // is one example.
  Matrix w0 = 0.3f * Matrix::Random(64, 32), w1 = 0.3f * Matrix::Random(8, 64);
  lora::MLP<float> network({lora::LoRALinear<float>(w0), lora::LoRALinear<float>(w1)},
                           lora::Activation::silu);

  // What it should do from now on: the same with both matrices changed a little.
  Matrix x = Matrix::Random(256, 32), target(256, 8);
  w0 += 0.05f * Matrix::Random(64, 4) * Matrix::Random(4, 32);
  w1 += 0.05f * Matrix::Random(8, 4) * Matrix::Random(4, 64);
  lora::MLP<float> goal({lora::LoRALinear<float>(w0), lora::LoRALinear<float>(w1)},
                        lora::Activation::silu);
  goal.forward(x, target);

  // An adapter of rank 4 on both layers is all that is trained.
  lora::LoRAConfig config;
  config.r = 4;
  config.lora_alpha = 8;
  config.target_modules = {"layers.0", "layers.1"};
  lora::LoRAModel model(network, config);  // freezes W, adds A and B
  std::printf("%s\n", model.trainable_parameters_text().c_str());

  lora::AdamW<float> optimizer({.lr = 1e-2, .weight_decay = 0.0});
  lora::MLP<float>::Tape tape;  // what backward needs from forward; reused from step to step
  Matrix y(256, 8), dy(256, 8);
  for (int step = 0; step <= 200; ++step) {
    lora::zero_grad(model);
    model.base().forward(x, y, &tape, {.training = true});
    const auto loss = lora::mse_loss<float>(y, target, dy);
    if (step % 50 == 0) std::printf("step %3d  loss %.6f\n", step, static_cast<double>(loss));
    model.base().backward(x, dy, tape);
    optimizer.step(model);
  }

  lora::save_adapter_file(model, "quickstart_adapter.safetensors");  // PEFT's keys
  const lora::MLP<float> merged =
      model.merge_and_unload();  // W + (alpha / r) B A, no adapters left
  Matrix merged_y(256, 8);
  merged.forward(x, merged_y);
  model.base().forward(x, y);
  std::printf("merged and unmerged outputs differ by at most %.1e\n",
              static_cast<double>((merged_y - y).cwiseAbs().maxCoeff()));
  std::printf("saved quickstart_adapter.safetensors\n");
}
