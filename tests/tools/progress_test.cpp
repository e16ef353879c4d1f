// Progress: what is written, when, and in which form.
#include "../../tools/support/progress.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

namespace progress_test {

using tools::Progress;
using tools::ProgressMode;
using tools::ProgressOptions;

/// A clock that stands still until it is moved, and everything that was written.
struct Stage {
  double now = 100;
  std::vector<std::string> written;
  ProgressOptions options(ProgressMode mode) {
    ProgressOptions result;
    result.mode = mode;
    result.columns = 80;
    result.write = [this](std::string_view text) { written.emplace_back(text); };
    result.clock = [this] { return now; };
    return result;
  }
  std::string all() const {
    std::string text;
    for (const std::string& piece : written) text += piece;
    return text;
  }
};

TEST(Progress, LinesComeAtIntervalsWithoutControlCharacters) {
  Stage stage;
  {
    Progress progress("Training", 100, stage.options(ProgressMode::lines));
    for (int step = 1; step <= 100; ++step) {
      stage.now += 0.13;
      progress.update(step, "loss\r\x1b 1");
    }
    progress.finish("loss 0.2");
    progress.finish();
    progress.update(7);
  }
  ASSERT_EQ(stage.written.size(), 3u);
  EXPECT_EQ(stage.written[0], "Training:  39%   39/100  0:08 left  loss   1\n");
  EXPECT_EQ(stage.written[1], "Training:  78%   78/100  0:03 left  loss   1\n");
  EXPECT_EQ(stage.written[2], "Training: 100%  100/100  0:13  loss 0.2\n");
}

TEST(Progress, ShortWorkAndQuietWorkAreNotMentioned) {
  Stage stage;
  for (const ProgressMode mode : {ProgressMode::bar, ProgressMode::lines}) {
    Progress progress("Short", 3, stage.options(mode));
    for (int step = 0; step < 3; ++step) progress.advance();
    progress.finish();
  }
  Progress quiet("Quiet", 3, stage.options(ProgressMode::quiet));
  stage.now += 1000;
  quiet.advance(3);
  quiet.finish();
  EXPECT_EQ(stage.all(), "");
}

TEST(Progress, TheBarIsRedrawnInPlace) {
  Stage stage;
  {
    Progress progress("Training", 10, stage.options(ProgressMode::bar));
    for (const char* note : {"a longer note", "short"}) {
      stage.now += 5;
      progress.advance(5, note);
    }
    progress.finish();
  }
  ASSERT_EQ(stage.written.size(), 4u);
  const std::string first = stage.written[0], second = stage.written[1];
  EXPECT_EQ(first.substr(0, 13), "\rTraining  [=");
  EXPECT_NE(first.find("==>"), std::string::npos) << first;
  EXPECT_NE(first.find("]   50%   5/10  0:05 left  a longer note"), std::string::npos) << first;
  EXPECT_NE(second.find("=]  100%  10/10  0:00 left  short"), std::string::npos) << second;
  // The shorter line wipes out the longer one with blanks, and the bracket stays where it was.
  EXPECT_EQ(first.size(), second.size());
  EXPECT_EQ(first.find(']'), second.find(']'));
  EXPECT_NE(stage.written[2].find("10/10  0:10  short"), std::string::npos);
  EXPECT_EQ(stage.written[3], "\n");
}

TEST(Progress, TheBarFitsAnyTerminal) {
  for (const int columns : {1, 2, 10, 25, 40, 60, 200}) {
    Stage stage;
    ProgressOptions options = stage.options(ProgressMode::bar);
    options.columns = columns;
    Progress progress("Größe", 1000, options);
    for (int step = 0; step < 4; ++step) {
      stage.now += 1;
      progress.advance(250, "loss 0.5, ‖g‖ 1.25");
    }
    ASSERT_EQ(stage.written.size(), 4u);
    for (const std::string& text : stage.written) {
      std::ptrdiff_t width = -1;  // the carriage return
      for (const char ch : text) width += (ch & 0xC0) != 0x80 ? 1 : 0;
      EXPECT_LE(width, std::max(columns - 1, 1)) << text;
      if (columns == 10 || columns == 25) {
        EXPECT_EQ(width, columns - 1) << text;
      }
    }
  }
}

TEST(Progress, WorkThatFailsLeavesTheLineAndSaysNothingOfSuccess) {
  Stage stage;
  try {
    Progress progress("Training", 10, stage.options(ProgressMode::bar));
    stage.now += 1;
    progress.update(4);
    throw std::runtime_error("out of paper");
  } catch (const std::runtime_error&) {
  }
  EXPECT_EQ(stage.written.back(), "\n");
  EXPECT_EQ(stage.all().find("100%"), std::string::npos);
}

TEST(Progress, TheDestructorDoesNotThrow) {
  Stage stage;
  ProgressOptions options = stage.options(ProgressMode::bar);
  int calls = 0;
  options.write = [&calls](std::string_view) {
    if (++calls > 1) throw std::runtime_error("the pipe is closed");
  };
  {
    Progress progress("Training", 10, options);
    stage.now += 1;
    progress.update(4);
  }
  EXPECT_EQ(calls, 2);
}

TEST(Progress, LongWorkInOneStepIsMentionedAtItsEnd) {
  for (const ProgressMode mode : {ProgressMode::bar, ProgressMode::lines}) {
    Stage stage;
    Progress progress("Reading", 1, stage.options(mode));
    stage.now += 90;
    progress.finish();
    EXPECT_NE(stage.all().find("1:30"), std::string::npos) << stage.all();
    EXPECT_EQ(stage.all().back(), '\n');
  }
}

TEST(Progress, WorkThatStopsEarlyDoesNotClaimTheRest) {
  Stage stage;
  Progress progress("Training", 300, stage.options(ProgressMode::lines));
  stage.now += 6;
  progress.update(120);
  progress.finish("converged");
  EXPECT_EQ(stage.written.back(), "Training:  40%  120/300  0:06  converged\n");
}

TEST(Progress, AnUnknownTotalCounts) {
  Stage stage;
  Progress progress("Reading", 0, stage.options(ProgressMode::lines));
  stage.now += 6;
  progress.advance(1234);
  EXPECT_EQ(stage.all(), "Reading: 1234  0:06\n");
}

}  // namespace progress_test
