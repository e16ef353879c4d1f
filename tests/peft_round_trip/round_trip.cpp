// Our half of round_trip.py:
//   round_trip load  BASE INPUTS ADAPTER OUTPUTS SAVED   loads an adapter, computes, saves it again
//   round_trip fresh BASE INPUTS ADAPTER OUTPUTS SAVED   makes one of the same config
#include <lora/io/peft/pretrained.hpp>
#include <lora/layers/lora_conv2d.hpp>
#include <lora/layers/lora_embedding.hpp>
#include <lora/layers/lora_linear.hpp>

#include <cstdio>
#include <string>
#include <vector>

using namespace lora;
using M = Matrix<float>;

/// embed, q, v, c (stored (D, O)), conv and head of Net in round_trip.py.
struct Net {
  using Scalar = float;
  LoRAEmbedding<float> embed;
  LoRALinear<float> q, v, c, head;
  LoRAConv2d<float> conv;

  explicit Net(const SafetensorsFile& file) {
    const auto at = [&](const char* name) { return file.matrix<float>(name); };
    embed = LoRAEmbedding<float>(at("embed.weight"));
    q = LoRALinear<float>(at("q.weight"), at("q.bias"));
    v = LoRALinear<float>(at("v.weight"));
    c = LoRALinear<float>(FrozenWeight<float>(at("c.weight"), Layout::in_out), at("c.bias"));
    head = LoRALinear<float>(at("head.weight"), at("head.bias"));
    Conv2dOptions options;
    options.kernel = {3, 2};
    options.padding = {1, 0};
    conv = LoRAConv2d<float>(at("conv.weight"), options, at("conv.bias"));
  }
  template <class Fn>
  void for_each_module(const NamePath& prefix, Fn&& fn) {
    fn(NamePath(prefix, "embed"), embed);
    fn(NamePath(prefix, "q"), q);
    fn(NamePath(prefix, "v"), v);
    fn(NamePath(prefix, "c"), c);
    fn(NamePath(prefix, "conv"), conv);
    fn(NamePath(prefix, "head"), head);
  }
  template <class Fn>
  void for_each_parameter(const NamePath& prefix, Fn&& fn) {
    for_each_module(prefix,
                    [&](const NamePath& name, auto& layer) { layer.for_each_parameter(name, fn); });
  }
};

int main(int count, char** values) {
  try {
    if (count != 7) throw Error("expected: load|fresh BASE INPUTS ADAPTER OUTPUTS SAVED");
    const std::vector<std::string> arguments(values + 1, values + count);
    const SafetensorsFile inputs = SafetensorsFile::open(arguments[2]);
    LoRAModel<Net> model(Net(SafetensorsFile::open(arguments[1])));
    SavePretrainedOptions options;
    if (arguments[0] == "load") {
      const LoadReport report = load_adapter(model, arguments[3]);
      for (const std::string& warning : report.warnings)
        std::printf("  warning: %s\n", warning.c_str());
      options.fields["default"] = report.fields;
    } else {
      model.add_adapter("default", PeftAdapter::open(arguments[3]).config());
      for (const auto& [key, parameter] : adapter_tensors(model))
        fill_normal(parameter->value, RandomStream(7, key), 0.3);
    }
    const auto ids = inputs.integers("ids");
    const ImageSize image = {4, 5};
    const Index T = static_cast<Index>(ids.size());
    Net& net = model.base();
    M h(T, 6), a(T, 6), b(T, 5), d(T, 7), y(T, 3);
    net.embed.forward(ids, h);
    net.q.forward(h, a);
    net.v.forward(h, b);
    net.c.forward(h + a, d);
    net.head.forward(d, y);
    const M x = inputs.matrix<float>("image");
    M z(x.rows(), 3 * conv2d_output(net.conv.options(), image).pixels());
    net.conv.forward(x, image, z);
    SafetensorsWriter outputs;
    outputs.add("v", b, DType::F32);
    outputs.add("y", y, DType::F32);
    outputs.add("z", z, DType::F32);
    outputs.write(arguments[4]);
    save_pretrained(model, arguments[5], options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "round_trip: %s\n", error.what());
    return 1;
  }
}
