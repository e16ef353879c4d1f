// What lora/lora.hpp costs a program that includes it and uses nothing, in the compiler's memory: unlike
// its time the same at each run. core/on_use.hpp says how it is kept small.
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/shared.hpp"

namespace compile_memory_test {

#if defined(LORA_CXX_COMPILER) && defined(LORA_EIGEN_FOLDER) && defined(__linux__)
// The most memory that a process of the compilation has, in KiB; 0 when it fails.
long peak_of_including(const std::string& header) {
  const lora_test::TemporaryFolder folder;
  const std::string unit = (folder.path / "unit").string();
  std::ofstream(unit + ".cpp") << "#include <" + header + ">\n";
  std::string command = "'" LORA_CXX_COMPILER "' -std=c++20 -O2 -c -I '" LORA_SOURCE_DIR
                        "/include' -isystem '" LORA_EIGEN_FOLDER "' ";
#if !defined(__clang__)
  // Its garbage is collected when a share of the machine's memory is used: never, so that machines agree.
  command += "--param ggc-min-expand=1000 --param ggc-min-heapsize=4000000 ";
#endif
  command += "'" + unit + ".cpp' -o '" + unit + ".o' > '" + unit + ".log' 2>&1";
  const pid_t child = fork();
  if (child == 0) {
    execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    _exit(127);
  }
  int status = 0;
  rusage used{};  // of the shell and of all that it waited for
  if (child < 0 || wait4(child, &status, 0, &used) != child || status != 0) return 0;
  return used.ru_maxrss;
}

TEST(CompileMemory, TheUmbrellaTakesAtMostFourTenthsBeyondEigen) {
  const long eigen = peak_of_including("Eigen/Core"), lora = peak_of_including("lora/lora.hpp");
  ASSERT_GT(eigen, 0);
  ASSERT_GT(lora, 0);
  EXPECT_LE(static_cast<double>(lora), 1.4 * static_cast<double>(eigen))
      << "lora/lora.hpp takes " << lora << " KiB, Eigen/Core " << eigen;
}
#endif

}  // namespace compile_memory_test
