// What the mains of the programs share, and finetune itself: lost output, memory, paths, signals.
#include "../../tools/support/program.hpp"

#include <gtest/gtest.h>

#include <stdexcept>

#include "support/messages.hpp"

namespace program_test {
using namespace tools;

struct Full : std::streambuf {};  // takes nothing

template <class Body>
std::pair<int, std::string> run_onto_full(Body&& body) {
  Full full;
  std::streambuf* const before = std::cout.rdbuf(&full);
  testing::internal::CaptureStderr();
  const int code = run_program({"prog", "", 2}, body);
  std::cout.rdbuf(before);
  std::cout.clear();
  return {code, testing::internal::GetCapturedStderr()};
}

TEST(Program, ReturnsWhatItsBodyReturns) {
  EXPECT_EQ(run_program({"prog"}, [] { return 0; }), 0);
  EXPECT_EQ(run_program({"prog"}, [] { return 130; }), 130);
}

TEST(Program, SaysAnErrorAndReturnsTheCodeOfAFailure) {
  testing::internal::CaptureStderr();
  const auto fails = [&](int failure) {
    return run_program({"prog", "", failure}, []() -> int { throw std::runtime_error("no"); });
  };
  EXPECT_EQ(fails(2), 2);
  EXPECT_EQ(fails(1), 1);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "prog: no\nprog: no\n");
}

TEST(Program, AReasonThatNamesTheProgramIsSaidWithoutIt) {
  EXPECT_EQ(reason_of("lora merge", "merge: no"), "no");
  EXPECT_EQ(reason_of("prog", "prog: no"), "no");
  EXPECT_EQ(reason_of("lora merge", "merger: no"), "merger: no");
  EXPECT_EQ(reason_of("lora merge", "no"), "no");
}

TEST(Program, LostOutputIsAnError) {
  const std::string lost =
      "prog: standard output: could not be written completely (no space left?)\n";
  const auto prints = [](int code) {
    return run_onto_full([code] {
      std::cout << "text";
      return code;
    });
  };
  EXPECT_EQ(prints(0), (std::pair{2, lost}));
  EXPECT_EQ(prints(143), (std::pair{143, lost}));
  EXPECT_EQ(run_onto_full([] { return 0; }), (std::pair{0, std::string()}));  // nothing was printed
}

TEST(ProgramDeathTest, SaysThatMemoryRanOutAndWhatHelps) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto runs_out = []() -> int { throw std::bad_alloc(); };
  EXPECT_EXIT(run_program({"prog", "a smaller batch"}, runs_out), testing::ExitedWithCode(2),
              "prog: out of memory. What helps: a smaller batch\n");
  EXPECT_EXIT(run_program({"prog", "", 1}, runs_out), testing::ExitedWithCode(1),
              "prog: out of memory\n");
}

}  // namespace program_test
