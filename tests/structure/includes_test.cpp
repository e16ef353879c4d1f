// Who includes whom: the table of docs/architecture.md as data, held against the headers.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>

#include "structure/source_tree.hpp"

namespace includes_test {
using namespace lora_test;

// A header includes headers of its own room and of what stands beside it: rooms ("io/" with all rooms within it), or single
// headers. A room is a folder below include/lora/.
const std::map<std::string, std::set<std::string>> may_include = {
    {"core", {}},
    {"kernels", {"core/isa.hpp"}},  // raw pointers and std
    {"regex", {"core"}},
    {"weights", {"core", "kernels"}},
    {"layers", {"core", "kernels", "weights"}},
    {"adapters", {"core", "regex", "layers"}},
    {"nn", {"core", "kernels", "weights", "layers"}},
    {"models", {"core", "layers", "nn"}},
    {"optim", {"core", "kernels"}},
    {"io", {"core"}},
    {"io/safetensors", {"core", "io"}},
    {"io/peft", {"core", "adapters", "io", "io/safetensors"}},
    {"io/hf", {"core", "adapters", "models", "io", "io/safetensors", "io/peft"}},
    {"io/gguf", {"core", "adapters", "io", "io/safetensors", "io/peft", "io/hf"}},
    {"text", {"core", "io"}},
    {"text/tokenizer", {"core", "io", "text"}},
    {"text/chat", {"core", "io", "text"}},
    {"text/data", {"core", "io", "text", "text/tokenizer", "text/chat"}},
    {"train", {"core", "adapters", "models", "optim", "io/"}},
    {"serve", {"core", "layers", "adapters", "nn", "models", "text/"}},
    // The umbrella brings what a network of one's own is trained with: also activations, losses,
    // the MLP.
    {"lora.hpp", {"core", "weights", "layers", "adapters", "nn", "models", "optim"}},
    {"llm.hpp", {"lora.hpp", "nn", "models", "io/", "text/", "train", "serve"}},
};

std::string top_of(const std::string& path) { return path.substr(0, path.find('/')); }

// The row of a header: its folder, or one around it; the file itself for an umbrella.
std::string room_of(std::string path) {
  do path = path.find('/') == path.npos ? path : path.substr(0, path.rfind('/'));
  while (may_include.count(path) == 0 && path.find('/') != path.npos);
  return path;
}

// Headers of others, beside those of the standard library, and the folders, or single headers, that
// may include them.
const std::map<std::string, std::set<std::string>> foreign = {
    {"Eigen/Core",
     {"core", "weights", "layers", "adapters", "nn", "models", "optim", "io", "text", "train",
      "serve"}},
    {"Eigen/QR", {"adapters/truncated_svd.hpp"}},
    {"Eigen/SVD", {"adapters/truncated_svd.hpp"}},
    {"nlohmann/json.hpp", {"io"}},
    {"pthread.h", {"core/parallel.hpp"}},
    {"sched.h", {"core/parallel.hpp"}},
    {"immintrin.h", {"kernels"}},
    {"arm_neon.h", {"kernels"}},
    {"fcntl.h", {"io"}},
    {"sys/file.h", {"io"}},
    {"sys/mman.h", {"io"}},
    {"sys/stat.h", {"io"}},
    {"unistd.h", {"io", "core/parallel.hpp"}},
};

struct Include {
  std::string target;
  bool quoted;
};

std::vector<Include> includes_of(const Header& header) {
  static const std::regex pattern("\\s*#\\s*include\\s*([<\"])([^>\"]*)[>\"].*");
  const std::vector<std::string> code = lines_of(code_of(header.text)), raw = lines_of(header.text);
  std::vector<Include> found;
  for (std::size_t i = 0; i < raw.size(); ++i) {
    std::smatch match;  // the text of a quoted include is blank in the code
    if (code[i].find("include") != std::string::npos && std::regex_match(raw[i], match, pattern))
      found.push_back({match[2], match[1] == "\""});
  }
  return found;
}

bool is_standard(const std::string& target) {
  return target.find_first_of("./") == std::string::npos;
}

// What is wrong with the includes of one header; `exists` says whether a path below include/lora/
// is there.
template <class Exists>
std::vector<std::string> include_faults(const Header& header, Exists exists) {
  std::vector<std::string> faults;
  const std::string folder = header.folder(), room = room_of(header.path);
  const auto row = may_include.find(room);
  if (row == may_include.end()) return {header.path + ": " + room + " has no row in the table"};
  for (const Include& include : includes_of(header)) {
    const std::string arrow = header.path + " includes " + include.target;
    if (include.quoted) {
      faults.push_back(arrow + " in quotes");
    } else if (include.target.rfind("lora/", 0) == 0) {
      const std::string target = include.target.substr(5);
      const std::string to = room_of(target);
      const bool own = to == room && target.find('/') != std::string::npos;
      if (!own && row->second.count(to) == 0 && row->second.count(top_of(target) + "/") == 0 &&
          row->second.count(target) == 0)
        faults.push_back(arrow + ", which the table forbids");
      if (!exists(target)) faults.push_back(arrow + ", which is not there");
      if (target == header.path) faults.push_back(arrow + ": itself");
    } else if (!is_standard(include.target)) {
      const auto rule = foreign.find(include.target);
      const bool allowed = rule != foreign.end() &&
                           (rule->second.count(folder) > 0 || rule->second.count(header.path) > 0);
      if (!allowed) faults.push_back(arrow + ", which is not allowed in " + folder + "/");
    }
  }
  return faults;
}

TEST(Includes, FollowTheTable) {
  const std::vector<Header> headers = all_headers();
  std::set<std::string> paths;
  for (const Header& header : headers) paths.insert(header.path);
  ASSERT_GT(paths.count("core/types.hpp"), 0u);
  std::vector<std::string> faults;
  for (const Header& header : headers) {
    const auto found =
        include_faults(header, [&](const std::string& target) { return paths.count(target) > 0; });
    faults.insert(faults.end(), found.begin(), found.end());
  }
  EXPECT_TRUE(faults.empty()) << joined(faults);
}

// Each floor stands on lower ones: following the arrows of the table never leads back.
TEST(Includes, TheTableHasNoCircle) {
  std::set<std::string> placed;
  const auto is_placed = [&](const std::string& target) {
    if (target.back() != '/') return placed.count(room_of(target)) > 0;
    return std::all_of(may_include.begin(), may_include.end(), [&](const auto& row) {
      return top_of(row.first) + "/" != target || placed.count(row.first) > 0;
    });
  };
  for (std::size_t round = 0; round <= may_include.size(); ++round) {
    for (const auto& [room, below] : may_include) {
      if (std::all_of(below.begin(), below.end(), is_placed)) placed.insert(room);
    }
  }
  EXPECT_EQ(placed.size(), may_include.size());
}

// draw_architecture.py writes each row of the table into the picture.
TEST(Includes, ThePictureShowsTheTable) {
  std::ifstream file(std::filesystem::path(LORA_SOURCE_DIR) / "docs" / "architecture.svg");
  const std::string picture(std::istreambuf_iterator<char>(file), {});
  std::map<std::string, std::set<std::string>> folders;
  for (const auto& [room, below] : may_include) {
    if (room.find('.') != std::string::npos) continue;  // the umbrellas
    std::set<std::string>& targets = folders[top_of(room)];
    for (const std::string& target : below) {
      if (top_of(target) != top_of(room)) targets.insert(top_of(target));
    }
  }
  for (const auto& [folder, targets] : folders) {
    std::string row = "<desc>" + folder + ": ";
    for (const std::string& target : targets) row += target + " ";
    if (!targets.empty()) row.pop_back();
    EXPECT_NE(picture.find(row + "</desc>"), picture.npos)
        << row << "; run python3 tests/structure/draw_architecture.py";
  }
}

// The reader itself, on headers that break each rule.
std::string faults_of(const std::string& path, const std::string& text) {
  return joined(include_faults(
      {path, text}, [](const std::string& target) { return target != "core/missing.hpp"; }));
}

TEST(IncludeReader, FindsForbiddenArrows) {
  EXPECT_EQ(faults_of("layers/a.hpp",
                      "#include <lora/core/types.hpp>\n#include <lora/layers/b/c.hpp>\n"
                      "#include <vector>\n#include <Eigen/Core>\n"),
            "");
  const std::string forbidden = ", which the table forbids";
  EXPECT_EQ(faults_of("core/a.hpp", "#include <lora/layers/b.hpp>\n"),
            "\n  core/a.hpp includes lora/layers/b.hpp" + forbidden);
  EXPECT_EQ(faults_of("core/a.hpp", "  #  include  <lora/layers/b.hpp>  // why\n"),
            "\n  core/a.hpp includes lora/layers/b.hpp" + forbidden);
  EXPECT_EQ(faults_of("core/a.hpp", "#if 1\r\n#include <lora/lora.hpp>\r\n#endif\r\n"),
            "\n  core/a.hpp includes lora/lora.hpp" + forbidden);
  EXPECT_EQ(faults_of("layers/variants/a.hpp", "#include <lora/optim/sgd.hpp>\n"),
            "\n  layers/variants/a.hpp includes lora/optim/sgd.hpp" + forbidden);
  EXPECT_EQ(faults_of("kernels/a.hpp", "#include <lora/core/types.hpp>\n"),
            "\n  kernels/a.hpp includes lora/core/types.hpp" + forbidden);
  EXPECT_EQ(faults_of("text/a.hpp", "#include <lora/io/json.hpp>\n"), "");
  EXPECT_EQ(faults_of("text/a.hpp", "#include <lora/io/hf/b.hpp>\n"),
            "\n  text/a.hpp includes lora/io/hf/b.hpp" + forbidden);
  EXPECT_EQ(faults_of("text/a.hpp", "#include <lora/text/chat/b.hpp>\n"),
            "\n  text/a.hpp includes lora/text/chat/b.hpp" + forbidden);
  EXPECT_EQ(faults_of("io/peft/a.hpp", "#include <lora/io/gguf/b.hpp>\n"),
            "\n  io/peft/a.hpp includes lora/io/gguf/b.hpp" + forbidden);
  EXPECT_EQ(faults_of("train/a.hpp", "#include <lora/io/hf/b.hpp>\n"), "");
  EXPECT_EQ(faults_of("lora.hpp", "#include <lora/io/file.hpp>\n"),
            "\n  lora.hpp includes lora/io/file.hpp" + forbidden);
}

TEST(IncludeReader, FindsWhatIsNotOurs) {
  EXPECT_EQ(faults_of("core/a.hpp", "#include <nlohmann/json.hpp>\n"),
            "\n  core/a.hpp includes nlohmann/json.hpp, which is not allowed in core/");
  EXPECT_EQ(faults_of("layers/a.hpp", "#include <Eigen/Dense>\n"),
            "\n  layers/a.hpp includes Eigen/Dense, which is not allowed in layers/");
  EXPECT_EQ(faults_of("adapters/a.hpp", "#include <Eigen/SVD>\n"),
            "\n  adapters/a.hpp includes Eigen/SVD, which is not allowed in adapters/");
  EXPECT_EQ(faults_of("adapters/truncated_svd.hpp", "#include <Eigen/SVD>\n"), "");
  EXPECT_EQ(faults_of("kernels/a.hpp", "#include <Eigen/Core>\n"),
            "\n  kernels/a.hpp includes Eigen/Core, which is not allowed in kernels/");
  EXPECT_EQ(faults_of("nn/a.hpp", "#include <immintrin.h>\n"),
            "\n  nn/a.hpp includes immintrin.h, which is not allowed in nn/");
}

TEST(IncludeReader, FindsTheRest) {
  EXPECT_EQ(faults_of("attic/a.hpp", ""), "\n  attic/a.hpp: attic has no row in the table");
  EXPECT_EQ(faults_of("core/a.hpp", "#include \"types.hpp\"\n"),
            "\n  core/a.hpp includes types.hpp in quotes");
  EXPECT_EQ(faults_of("core/a.hpp", "#include <lora/core/missing.hpp>\n"),
            "\n  core/a.hpp includes lora/core/missing.hpp, which is not there");
  EXPECT_EQ(faults_of("core/a.hpp", "#include <lora/core/a.hpp>\n"),
            "\n  core/a.hpp includes lora/core/a.hpp: itself");
  EXPECT_EQ(faults_of("core/a.hpp", "// #include <lora/layers/b.hpp>\n/*\n#include <x.h>\n*/\n"),
            "");
}

}  // namespace includes_test
