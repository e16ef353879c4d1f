// The table and the chart of bench/run.sh.
#include "../../bench/support/rank_report.hpp"

#include <gtest/gtest.h>

#include "support/comma_locale.hpp"
#include "support/messages.hpp"

namespace rank_report_test {
using namespace bench;
using lora::Json;

Json run(const std::string& name, double ms) {
  return {
      {"name", "lora_linear/" + name + "/real_time"}, {"run_type", "iteration"}, {"real_time", ms}};
}
Json small_report() {
  Json mean = run("forward_backward/width:2048/tokens:16/rank:4", 0.001);
  mean["run_type"] = "aggregate";
  return {{"context", {{"processor", "Some CPU"}, {"threads", "2"}}},
          {"benchmarks",
           {run("forward_backward/width:2048/tokens:16/rank:4", 9), mean,
            run("forward_backward/width:2048/tokens:16/rank:4", 8),
            run("forward_backward/width:2048/tokens:16/rank:64", 16),
            run("frozen/width:2048/tokens:16/rank:0", 6.4),
            run("naive/width:2048/tokens:16/rank:4", 32),
            run("forward_backward/width:896x4864/tokens:16/rank:4", 5)}}};
}

TEST(RankReport, OneLineACaseWithTheLeastOfItsTimes) {
  const lora_test::CommaLocale comma;
  const std::string table = rank_table(read_rank_report(small_report(), Json()));
  EXPECT_EQ(
      table,
      "One layer, float32, forward and backward, 2 threads: tokens a second\n"
      "  width  tokens  rank         LoRA  frozen alone   naive code  LoRA/frozen  LoRA/naive\n"
      "   2048      16     4        2,000         2,500          500         80 %        4.0x\n"
      "   2048      16    64        1,000         2,500            -         40 %           -\n"
      "Some CPU, peak not measured\n");
}

TEST(RankReport, SaysInTableAndChartThatTheSpeedDrifted) {
  const RankReport steady = read_rank_report(small_report(), {{"before", 60.0}, {"after", 57.0}});
  EXPECT_HAS(rank_table(steady), "Some CPU, peak 60 GF/s before and 57 after (-5 %)\n");
  EXPECT_FALSE(lora_test::has(rank_table(steady), "more than 10 %"));
  EXPECT_FALSE(lora_test::has(rank_chart(steady).subtitle, "changed"));
  const RankReport drifted = read_rank_report(small_report(), {{"before", 60.0}, {"after", 45.0}});
  EXPECT_HAS(rank_table(drifted), "peak 60 GF/s before and 45 after (-25 %)\n");
  EXPECT_HAS(rank_table(drifted), "changed by more than 10 % meanwhile");
  EXPECT_HAS(rank_chart(drifted).subtitle, "the machine's speed changed meanwhile");
  EXPECT_HAS(rank_chart(drifted).footnote, "peak 60 GF/s before and 45 after (-25 %)");
}

TEST(RankReport, DrawsAPanelASizeWithLinesForWhatWasMeasured) {
  const tools::Chart chart = rank_chart(read_rank_report(small_report(), Json()));
  ASSERT_EQ(chart.panels.size(), 1u);
  EXPECT_EQ(chart.panels[0].title, "16 tokens, 2048 × 2048");
  ASSERT_EQ(chart.panels[0].series.size(), 2u);
  EXPECT_EQ(chart.panels[0].series[0].x, (std::vector<double>{4, 64}));
  EXPECT_EQ(chart.panels[0].series[0].y, (std::vector<double>{2000, 1000}));
  EXPECT_EQ(chart.panels[0].series[1].y, std::vector<double>{500});
  ASSERT_EQ(chart.panels[0].references.size(), 1u);
  EXPECT_EQ(chart.panels[0].references[0].y, 2500);
  EXPECT_HAS(tools::to_svg(chart), "<svg");
}

}  // namespace rank_report_test
