#include <lora/layers/layer_tape.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"

namespace layer_tape_test {
using namespace lora;
using namespace lora_test;

TEST(LayerTape, KeepsTheTapesOfItsAdaptersFromStepToStep) {
  LayerTape<float> tape;
  Adapter<float> one, two;
  one.id = 5;
  two.id = 7;
  for (int step = 0; step < 2; ++step) {
    tape.begin(3);
    EXPECT_EQ(tape.used, 0u);
    tape.next(one);
    EXPECT_EQ(tape.next(two).id, 7u);
    EXPECT_EQ(tape.adapters.size(), 2u);
    EXPECT_EQ(tape.used, 2u);
  }
  tape.begin(3);
  EXPECT_EQ(tape.next(two).id, 7u);
  EXPECT_EQ(tape.adapters.size(), 2u) << "kept for a step in which more act";
}

TEST(LayerTape, IsRefusedWithoutAForwardAfterAChangeAndOnceItIsSpent) {
  LayerTape<float> tape;
  const auto refused = [&](std::uint64_t state, const char* what) {
    return throws<Error>(
        [&] {
          tape.expect_forward("f");
          tape.expect_current("f", state);
        },
        {what});
  };
  EXPECT_TRUE(refused(0, "f: the tape has seen no forward"));
  tape.begin(3);
  EXPECT_TRUE(refused(3, "has seen no forward")) << "it failed";
  tape.rows = 0;
  EXPECT_NO_THROW(tape.expect_current("f", 3));
  EXPECT_TRUE(refused(4, "was made by another layer, or what acts in this one was changed"));
  tape.spent = true;
  EXPECT_TRUE(refused(3, "has served a backward already"));
  tape.begin(3);
  tape.rows = 2;
  EXPECT_NO_THROW(tape.expect_current("f", 3));
}

}  // namespace layer_tape_test
