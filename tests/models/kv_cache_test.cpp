// A cache of keys and values: growing, going back, and what it holds.
#include <lora/models/kv_cache.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"

namespace kv_cache_test {
using namespace lora;
using namespace lora_test;

bool holds(const View<double>& view, const Matrix<double>& rows) {
  for (Index i = 0; i < view.rows; ++i) {
    for (Index j = 0; j < view.cols; ++j) {
      if (view.data[i * view.row_stride + j] != rows(i, j)) return false;
    }
  }
  return view.rows == rows.rows() && view.cols == rows.cols();
}

TEST(KVCache, KeepsEveryLayersRowsWhileItGrows) {
  const Matrix<double> k = random_matrix(300, 6, "k"), v = random_matrix(300, 6, "v");
  KVCache<double> cache;
  EXPECT_EQ(cache.length(), 0);
  EXPECT_EQ(cache.bytes(), 0);
  Index seen = 0;
  for (const Index n : {1, 2, 61, 1, 235}) {
    for (const Index layer : {0, 2}) {
      cache.append(layer, View<double>(k).middle_rows(seen, n),
                   View<double>(v).middle_rows(seen, n));
      EXPECT_TRUE(holds(cache.keys(layer, seen + n), k.topRows(seen + n)));
      EXPECT_TRUE(holds(cache.values(layer, seen + n), v.topRows(seen + n)));
    }
    EXPECT_EQ(cache.length(), seen);
    cache.advance(n);
    seen += n;
  }
  EXPECT_EQ(cache.length(), 300);
  EXPECT_EQ(cache.bytes() % (4 * 6 * 8), 0);
  const Index before = cache.bytes();
  cache.truncate(10);
  cache.append(0, View<double>(k).middle_rows(50, 2), View<double>(v).middle_rows(50, 2));
  EXPECT_EQ(cache.bytes(), before);
  Matrix<double> expected(12, 6);
  expected << k.topRows(10), k.middleRows(50, 2);
  EXPECT_TRUE(holds(cache.keys(0, 12), expected));
}

TEST(KVCache, ReadsRowsThatLieApartAndCopiesAsAValue) {
  const Matrix<double> wide = random_matrix(4, 12, "wide");
  KVCache<double> cache;
  cache.append(0, View<double>(wide).middle_cols(3, 5), View<double>(wide).middle_cols(7, 5));
  cache.advance(4);
  KVCache<double> copy = cache;
  copy.truncate(0);
  EXPECT_TRUE(holds(cache.keys(0, 4), wide.middleCols(3, 5)));
  EXPECT_TRUE(holds(cache.values(0, 4), wide.middleCols(7, 5)));
}

TEST(KVCacheErrors, Truncate) {
  KVCache<double> cache;
  EXPECT_TRUE(throws<ShapeError>([&] { cache.truncate(1); },
                                 {"KVCache::truncate: length is 1, expected 0 to 0"}));
  EXPECT_TRUE(throws<ShapeError>([&] { cache.truncate(-1); }, {"length is -1"}));
}

}  // namespace kv_cache_test
