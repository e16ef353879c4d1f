// The two tasks of adapt_digits: the network first learns A and is then adapted to B.
#pragma once

#include "digits.hpp"

#include <filesystem>
#include <optional>

namespace examples {

/// The sources of the digits. Without files they are drawn.
struct DigitSources {
  /// One file, which is split, or two: training and held-out images.
  std::vector<std::filesystem::path> mnist_images = {}, mnist_labels = {}, optdigits = {};
  bool drawn_first = false;  ///< task A: drawn digits, task B: those of the files
  /// Of task B; empty: 45° if both tasks have one source, else none.
  std::optional<Shift> shift = {};
  Index images = 8000;  ///< maximum number of training images per task
  std::uint64_t seed = 0;
};

/// A task's training images, and its held-out images for measuring.
struct Task {
  std::string words;  ///< description
  DigitSet train, held_out;
};
struct Tasks {
  Task a, b;
};

namespace detail {

inline constexpr double kHeldOutShare = 0.2;  ///< of a single file, and of drawn digits

inline Task split_task(const DigitSet& set, std::uint64_t seed) {
  DigitSplit parts = split(set, kHeldOutShare, seed);
  return {set.source, std::move(parts.train), std::move(parts.validation)};
}

/// Makes one task of two files.
/// Throws: lora::FormatError if their images have different sizes.
inline Task pair_task(DigitSet train, DigitSet held_out) {
  if (train.height != held_out.height || train.width != held_out.width) {
    throw lora::FormatError(held_out.source + ": images are " +
                            lora::shape_text(held_out.height, held_out.width) + ", expected " +
                            lora::shape_text(train.height, train.width) + " as in " + train.source);
  }
  std::string words = train.source + ", " + held_out.source;
  return {std::move(words), std::move(train), std::move(held_out)};
}

inline Task mnist_task(const DigitSources& from) {
  const auto pair = [&from](std::size_t i) {
    return read_mnist(from.mnist_images[i], from.mnist_labels[i]);
  };
  Task task =
      from.mnist_images.size() == 1 ? split_task(pair(0), from.seed) : pair_task(pair(0), pair(1));
  task.words = "MNIST (" + task.words + ")";
  return task;
}

inline Task optdigits_task(const DigitSources& from) {
  const DigitSet first = read_optdigits(from.optdigits[0]);
  Task task = from.optdigits.size() == 1 ? split_task(first, from.seed)
                                         : pair_task(first, read_optdigits(from.optdigits[1]));
  task.words = "optdigits (" + task.words + ")";
  return task;
}

inline Task drawn_task(const DigitSources& from, Index height, Index width) {
  const double all = static_cast<double>(from.images) / (1.0 - kHeldOutShare);
  const Index count = std::max<Index>(static_cast<Index>(std::lround(all)), from.images + 1);
  DigitSet set = draw_digits({.count = count, .height = height, .width = width, .seed = from.seed});
  return split_task(set, from.seed);
}

inline void resize_task(Task& task, Index height, Index width) {
  if (task.train.height == height && task.train.width == width) return;
  task.train = resized(task.train, height, width);
  task.held_out = resized(task.held_out, height, width);
}

inline void shift_task(Task& task, Shift shift) {
  task.train = shifted(task.train, shift);
  shift.seed = lora::mix64(shift.seed);  // different noise for the held-out images
  task.held_out = shifted(task.held_out, shift);
}

inline void check_sources(const DigitSources& from) {
  const auto refuse = [](const std::string& what) { throw lora::ConfigError("digits: " + what); };
  const std::size_t images = from.mnist_images.size(), labels = from.mnist_labels.size();
  if (images != labels) {
    refuse(std::to_string(images) + " files of MNIST images and " + std::to_string(labels) +
           " of labels, expected as many of each");
  }
  if (images > 2 || from.optdigits.size() > 2) {
    refuse("more than two files of one kind, expected one, or one to learn from and one held out");
  }
  if (from.drawn_first && (images == 0) == from.optdigits.empty()) {
    refuse("drawn digits first need one kind of files for the second task");
  }
  if (from.images < 10) {
    refuse("images is " + std::to_string(from.images) + ", expected at least 10");
  }
}

}  // namespace detail

/// Loads both tasks. Without files, both are drawn digits; with one kind of file, both are its
/// digits. In both cases B is shifted. With both kinds, A is MNIST and B is optdigits at MNIST's
/// size.
/// Throws: lora::ConfigError for sources that cannot be combined; as the readers do.
inline Tasks load_tasks(const DigitSources& from) {
  detail::check_sources(from);
  const bool mnist = !from.mnist_images.empty(), optdigits = !from.optdigits.empty();
  Tasks tasks;
  if (mnist) {
    tasks.a = detail::mnist_task(from);
  } else {
    tasks.a = optdigits ? detail::optdigits_task(from) : detail::drawn_task(from, 28, 28);
  }
  tasks.b = mnist && optdigits ? detail::optdigits_task(from) : tasks.a;
  if (from.drawn_first) {
    tasks.a = detail::drawn_task(from, tasks.b.train.height, tasks.b.train.width);
  }
  detail::resize_task(tasks.b, tasks.a.train.height, tasks.a.train.width);
  const bool one_source = tasks.a.words == tasks.b.words;
  const Shift shift = from.shift.value_or(Shift{.rotate_degrees = one_source ? 45.0 : 0.0});
  for (Task* task : {&tasks.a, &tasks.b}) task->train = take(task->train, from.images);
  detail::shift_task(tasks.b, shift);
  const std::string change = to_string(shift);
  if (one_source) {
    tasks.b.words = "the same, " + change;
  } else if (change != to_string(Shift{})) {
    tasks.b.words += ", " + change;
  }
  return tasks;
}

}  // namespace examples
