// Prepares changes first and then applies them together, without the possibility of an error.
#pragma once

#include <lora/core/error.hpp>

#include <algorithm>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora {

/// A change of many places that happens completely or not at all. Functions named prepare_… check,
/// compute the new values and add steps to a transaction; they change nothing. commit() runs the
/// steps and cannot fail. A function that throws before commit() has changed nothing:
///
///       Transaction change;
///       for (Layer& layer : layers) layer.prepare_x(…, change);  // may throw
///       change.set(names_, std::move(names));                    // may throw
///       change.commit();                                         // cannot throw
///
/// The places must not move before commit(). commit() first sets all values, then grows and shrinks
/// lists, so the order of preparing does not matter. The transaction's destructor frees what was
/// replaced.
/// Threads: not safe to share.
class Transaction {
 public:
  /// Puts `value` at `place` on commit(). If a place gets several values, the last one stays.
  template <class T>
  void set(T& place, std::type_identity_t<T> value) {
    static_assert(std::is_nothrow_move_constructible_v<T> && std::is_nothrow_move_assignable_v<T>);
    add(values_, [&place, value = std::move(value)]() mutable noexcept {
      using std::swap;
      swap(place, value);
    });
  }

  /// Appends `value` to `list` on commit(), which moves the elements of the list.
  /// Throws: Error if the list already gets an element, because then a layer is listed twice.
  template <class T>
  void append(std::vector<T>& list, std::type_identity_t<T> value) {
    static_assert(std::is_nothrow_move_constructible_v<T> && std::is_nothrow_move_assignable_v<T>);
    if (std::count(lists_.begin(), lists_.end(), &list) != 0) {
      throw Error(
          "a list would get two new elements in one change; expected a model that lists each layer "
          "once");
    }
    std::vector<T> longer;
    longer.reserve(list.size() + 1);
    lists_.push_back(&list);
    then([&list, longer = std::move(longer), value = std::move(value)]() mutable noexcept {
      for (T& element : list) longer.push_back(std::move(element));
      longer.push_back(std::move(value));
      list.swap(longer);
    });
  }

  /// Calls step() on commit(), after all values are set and in the order of these calls. step()
  /// must be noexcept.
  template <class Step>
  void then(Step step) {
    add(steps_, std::move(step));
  }

  /// Applies all changes. Call it once.
  void commit() noexcept {
    for (const auto& step : values_) step->act();
    for (const auto& step : steps_) step->act();
  }

 private:
  struct Step {
    virtual ~Step() = default;
    virtual void act() noexcept = 0;
  };
  using Steps = std::vector<std::unique_ptr<Step>>;

  template <class Fn>
  static void add(Steps& steps, Fn fn) {
    static_assert(std::is_nothrow_invocable_v<Fn&>, "a step must be noexcept");
    struct Act final : Step {
      Fn fn;
      explicit Act(Fn f) : fn(std::move(f)) {}
      void act() noexcept override { fn(); }
    };
    steps.push_back(std::make_unique<Act>(std::move(fn)));
  }

  Steps values_, steps_;
  std::vector<const void*> lists_;  ///< lists that get an element
};

/// Calls prepare(transaction), then commit(). If prepare throws, nothing has changed.
template <class Prepare>
void change_at_once(Prepare&& prepare) {
  Transaction change;
  prepare(change);
  change.commit();
}

}  // namespace lora
