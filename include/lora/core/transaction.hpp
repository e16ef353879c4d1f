// Changes that are made ready first and then take effect together, without an error.
#pragma once

#include <lora/core/error.hpp>

#include <algorithm>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora {

/// A change of many places that happens as a whole or not at all. Functions called prepare_…
/// check, compute what will stand there, and add steps to a transaction; they alter nothing.
/// commit() lets the steps act and cannot fail. Whoever throws before it, for want of memory or
/// for any other reason, has changed nothing, since no step has acted:
///
///     Transaction change;
///     for (Layer& layer : layers) layer.prepare_x(…, change);  // may throw
///     change.set(names_, std::move(names));                    // may throw
///     change.commit();                                         // cannot
///
/// The places must stay where they are until then. First all values take their places, then lists
/// grow or shrink, so it does not matter which of them was prepared first. What was replaced is
/// freed with the transaction. Not safe to share between threads.
class Transaction {
 public:
  /// At commit() `value` takes the place of what stands at `place`. Of several values for one place
  /// the last one stays.
  template <class T>
  void set(T& place, std::type_identity_t<T> value) {
    static_assert(std::is_nothrow_move_constructible_v<T> && std::is_nothrow_move_assignable_v<T>);
    add(values_, [&place, value = std::move(value)]() mutable noexcept {
      using std::swap;
      swap(place, value);
    });
  }

  /// At commit() `value` stands at the end of `list`, whose elements move. Throws Error for a list
  /// that has got one already: somebody is listed twice.
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

  /// At commit() step() is called, after all values are set and in the order of these calls. It
  /// must be noexcept.
  template <class Step>
  void then(Step step) {
    add(steps_, std::move(step));
  }

  /// Lets everything act, once.
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
  std::vector<const void*> lists_;  ///< that get an element
};

/// Prepares a change and lets it act: prepare(transaction) is called, then commit(). When it throws,
/// nothing has changed.
template <class Prepare>
void change_at_once(Prepare&& prepare) {
  Transaction change;
  prepare(change);
  change.commit();
}

}  // namespace lora
