// Learning-rate schedules as pure functions of the step, so that an interrupted run continues
// exactly.
#pragma once

#include <lora/optim/parameter_groups.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace lora {

/// The arguments of transformers' get_scheduler, under its names. Every schedule accepts the first
/// two; the others belong to the schedules named beside them, with their defaults.
template <class Tag = void>
struct BasicScheduleOptions {
  Index num_warmup_steps = 0;
  std::optional<Index> num_training_steps{};
  /// The learning rate before the schedule. polynomial and min_lr need it because they set absolute
  /// rates.
  std::optional<double> base_lr{};

  std::optional<double> num_cycles{};       ///< cosine*, warmup_stable_decay: 0.5; restarts: 1
  std::optional<double> lr_end{};           ///< polynomial: 1e-7
  std::optional<double> power{};            ///< polynomial: 1
  std::optional<Index> timescale{};         ///< inverse_sqrt: the warm-up steps, or 10000
  std::optional<double> min_lr{};           ///< cosine_*_min_lr: set this or min_lr_rate
  std::optional<double> min_lr_rate{};      ///< min_lr / base_lr
  std::optional<double> warmup_lr_rate{};   ///< cosine_warmup_with_min_lr: 1 / warm-up steps
  std::optional<Index> num_stable_steps{};  ///< warmup_stable_decay: training − warm-up − decay
  std::optional<Index> num_decay_steps{};   ///< warmup_stable_decay: required
  std::optional<std::string> warmup_type{};  ///< warmup_stable_decay: "linear", "cosine", "1-sqrt"
  std::optional<std::string> decay_type{};   ///< warmup_stable_decay: the same; "cosine"
  std::optional<double> min_lr_ratio{};      ///< warmup_stable_decay: 0
};

using ScheduleOptions = BasicScheduleOptions<>;

/// A schedule of transformers, by name. With w = num_warmup_steps, n = num_training_steps and
/// q = (step − w) / max(1, n − w), every schedule except "constant" rises as step / w for w steps.
/// Then the factor is
///   constant                   1
///   constant_with_warmup       1
///   linear                     max(0, 1 − q)
///   cosine                     max(0, ½ (1 + cos(2π num_cycles q))), which rises again past n
///   cosine_with_restarts       ½ (1 + cos(π frac(num_cycles q))), 0 from n on
///   polynomial                 e + (1 − e)(1 − q)^power with e = lr_end / base_lr, e past n
///   inverse_sqrt               √(timescale / (step + timescale − w))
///   cosine_with_min_lr         m + (1 − m) cosine with m = min_lr_rate
///   cosine_warmup_with_min_lr  the same one step ahead; rises from warmup_lr_rate
///   warmup_stable_decay        rises from min_lr_ratio, stays 1, falls to min_lr_ratio
/// A value type; safe to share between threads.
/// Source: get_scheduler in optimization.py of transformers.
template <class Tag = void>
class BasicLRSchedule {
 public:
  using Options = BasicScheduleOptions<Tag>;

  /// Creates a schedule.
  /// Throws: ConfigError for a name that is not listed above (reduce_lr_on_plateau depends on the
  ///   loss, not only on the step), and for an option that the schedule does not have, that is
  ///   missing, or that is out of range.
  explicit BasicLRSchedule(std::string name, Options options = {});

  /// Returns the factor of the base learning rate in step number `step` + 1; the first step has
  /// factor(0).
  /// Throws: ConfigError for a negative step.
  double factor(Index step) const;

  const std::string& name() const { return name_; }
  const Options& options() const { return options_; }

 private:
  enum class Kind {
    linear,
    cosine,
    cosine_with_restarts,
    polynomial,
    constant,
    constant_with_warmup,
    inverse_sqrt,
    cosine_with_min_lr,
    cosine_warmup_with_min_lr,
    warmup_stable_decay
  };
  struct Row {
    const char* name;
    Kind kind;
    bool needs_training_steps;
    std::string_view options;  ///< its options, each followed by a blank
  };
  static constexpr std::array<Row, 10> rows = {{
      {"linear", Kind::linear, true, ""},
      {"cosine", Kind::cosine, true, "num_cycles "},
      {"cosine_with_restarts", Kind::cosine_with_restarts, true, "num_cycles "},
      {"polynomial", Kind::polynomial, true, "lr_end power "},
      {"constant", Kind::constant, false, ""},
      {"constant_with_warmup", Kind::constant_with_warmup, false, ""},
      {"inverse_sqrt", Kind::inverse_sqrt, false, "timescale "},
      {"cosine_with_min_lr", Kind::cosine_with_min_lr, true, "num_cycles min_lr min_lr_rate "},
      {"cosine_warmup_with_min_lr", Kind::cosine_warmup_with_min_lr, true,
       "num_cycles min_lr min_lr_rate warmup_lr_rate "},
      {"warmup_stable_decay", Kind::warmup_stable_decay, false,
       "num_cycles num_stable_steps num_decay_steps warmup_type decay_type min_lr_ratio "},
  }};

  [[noreturn]] void refuse(const std::string& what) const {
    throw ConfigError("LRSchedule \"" + name_ + "\": " + what);
  }
  const Row& find_row() const;
  void refuse_foreign_options(const Row& row) const;
  void check_range(const char* what, const std::optional<double>& x, double low, bool open) const;
  void check_ranges() const;
  void settle_min_lr();
  void settle_stable_steps();

  double warmup(double step) const;
  double stable_decay(double step) const;
  static double shape(std::string_view type, double progress, double num_cycles);

  std::string name_;
  Options options_;
  Kind kind_ = Kind::constant;
};

/// The schedule to use; the template is compiled only where it is used.
using LRSchedule = BasicLRSchedule<>;

template <class Tag>
BasicLRSchedule<Tag>::BasicLRSchedule(std::string name, Options options)
    : name_(std::move(name)), options_(std::move(options)) {
  const Row& row = find_row();
  kind_ = row.kind;
  refuse_foreign_options(row);
  check_ranges();
  if (row.needs_training_steps && !options_.num_training_steps) {
    refuse("num_training_steps is not set");
  }
  if (kind_ == Kind::polynomial) {
    if (!options_.base_lr) refuse("base_lr is not set, and lr_end is an absolute rate");
    if (!options_.lr_end) options_.lr_end = 1e-7;
    if (!(*options_.base_lr > *options_.lr_end)) {
      refuse("lr_end is " + number_text(*options_.lr_end) +
             ", expected less than base_lr = " + number_text(*options_.base_lr));
    }
  }
  if (kind_ == Kind::cosine_with_min_lr || kind_ == Kind::cosine_warmup_with_min_lr)
    settle_min_lr();
  if (kind_ == Kind::warmup_stable_decay) settle_stable_steps();
  if (!options_.num_cycles) options_.num_cycles = kind_ == Kind::cosine_with_restarts ? 1.0 : 0.5;
  if (!options_.power) options_.power = 1;
  if (!options_.timescale) {
    options_.timescale = options_.num_warmup_steps > 0 ? options_.num_warmup_steps : 10000;
  }
}

template <class Tag>
const typename BasicLRSchedule<Tag>::Row& BasicLRSchedule<Tag>::find_row() const {
  std::string known;
  for (const Row& row : rows) {
    if (name_ == row.name) return row;
    known += std::string(known.empty() ? "" : ", ") + row.name;
  }
  if (name_ == "reduce_lr_on_plateau") {
    refuse(
        "depends on the loss and not on the step alone, which is not supported; expected one of " +
        known);
  }
  refuse("is not a schedule; expected one of " + known);
}

template <class Tag>
void BasicLRSchedule<Tag>::refuse_foreign_options(const Row& row) const {
  const Options& o = options_;
  const std::pair<const char*, bool> given[] = {
      {"num_cycles ", o.num_cycles.has_value()},
      {"lr_end ", o.lr_end.has_value()},
      {"power ", o.power.has_value()},
      {"timescale ", o.timescale.has_value()},
      {"min_lr ", o.min_lr.has_value()},
      {"min_lr_rate ", o.min_lr_rate.has_value()},
      {"warmup_lr_rate ", o.warmup_lr_rate.has_value()},
      {"num_stable_steps ", o.num_stable_steps.has_value()},
      {"num_decay_steps ", o.num_decay_steps.has_value()},
      {"warmup_type ", o.warmup_type.has_value()},
      {"decay_type ", o.decay_type.has_value()},
      {"min_lr_ratio ", o.min_lr_ratio.has_value()},
  };
  const std::string known = std::string(" ").append(row.options);
  for (const auto& [option, set] : given) {
    if (set && known.find(std::string(" ").append(option)) == std::string::npos) {
      const std::string name(option, std::string_view(option).size() - 1);
      refuse("has no option " + name + (row.options.empty() ? "" : "; it has" + known));
    }
  }
}

template <class Tag>
void BasicLRSchedule<Tag>::check_range(const char* what, const std::optional<double>& x, double low,
                                       bool open) const {
  if (x && !(std::isfinite(*x) && (open ? *x > low : *x >= low))) {
    refuse(std::string(what) + " is " + number_text(*x) + ", expected a finite number " +
           (open ? "> " : ">= ") + number_text(low));
  }
}

template <class Tag>
void BasicLRSchedule<Tag>::check_ranges() const {
  const Options& o = options_;
  const auto number = [](const std::optional<Index>& n) {
    return n ? std::optional<double>(static_cast<double>(*n)) : std::nullopt;
  };
  check_range("num_warmup_steps", number(o.num_warmup_steps), 0, false);
  check_range("num_training_steps", number(o.num_training_steps), 0, false);
  check_range("timescale", number(o.timescale), 0, true);
  check_range("num_stable_steps", number(o.num_stable_steps), 0, false);
  check_range("num_decay_steps", number(o.num_decay_steps), 0, false);
  check_range("base_lr", o.base_lr, 0, true);
  check_range("num_cycles", o.num_cycles, 0, true);
  check_range("lr_end", o.lr_end, 0, false);
  check_range("power", o.power, 0, true);
  check_range("min_lr", o.min_lr, 0, false);
  check_range("min_lr_rate", o.min_lr_rate, 0, false);
  check_range("warmup_lr_rate", o.warmup_lr_rate, 0, false);
  check_range("min_lr_ratio", o.min_lr_ratio, 0, false);
  for (const auto& type : {o.warmup_type, o.decay_type}) {
    if (type && *type != "linear" && *type != "cosine" && *type != "1-sqrt") {
      refuse("has no warmup_type or decay_type \"" + *type +
             "\"; expected linear, cosine or 1-sqrt");
    }
  }
}

template <class Tag>
void BasicLRSchedule<Tag>::settle_min_lr() {
  if (options_.min_lr && options_.min_lr_rate) refuse("min_lr and min_lr_rate are both set");
  if (!options_.min_lr && !options_.min_lr_rate) refuse("neither min_lr nor min_lr_rate is set");
  if (options_.min_lr) {
    if (!options_.base_lr) refuse("base_lr is not set, and min_lr is an absolute rate");
    options_.min_lr_rate = *options_.min_lr / *options_.base_lr;
  }
}

template <class Tag>
void BasicLRSchedule<Tag>::settle_stable_steps() {
  if (!options_.num_decay_steps) refuse("num_decay_steps is not set");
  if (!options_.num_stable_steps) {
    if (!options_.num_training_steps) {
      refuse("neither num_training_steps nor num_stable_steps is set");
    }
    options_.num_stable_steps =
        *options_.num_training_steps - options_.num_warmup_steps - *options_.num_decay_steps;
    if (*options_.num_stable_steps < 0) {
      refuse("num_warmup_steps + num_decay_steps is more than num_training_steps = " +
             std::to_string(*options_.num_training_steps));
    }
  }
  if (!options_.warmup_type) options_.warmup_type = "linear";
  if (!options_.decay_type) options_.decay_type = "cosine";
  if (!options_.min_lr_ratio) options_.min_lr_ratio = 0;
}

/// Falls from 1 at progress 0 towards 0 at progress 1.
template <class Tag>
double BasicLRSchedule<Tag>::shape(std::string_view type, double progress, double num_cycles) {
  if (type == "linear") return 1 - progress;
  if (type == "1-sqrt") return 1 - std::sqrt(progress);
  return 0.5 * (1 + std::cos(std::numbers::pi * num_cycles * 2 * progress));
}

template <class Tag>
double BasicLRSchedule<Tag>::warmup(double step) const {
  const double steps = static_cast<double>(options_.num_warmup_steps);
  if (kind_ == Kind::cosine_warmup_with_min_lr) {
    if (!options_.warmup_lr_rate) return (step + 1) / steps;
    const double start = *options_.warmup_lr_rate;
    return start + (1 - start) * step / std::max(1.0, steps - 1);
  }
  const double progress = step / steps;
  if (kind_ != Kind::warmup_stable_decay) return progress;
  const std::string& type = *options_.warmup_type;
  double rise = progress;
  if (type == "cosine") rise = 0.5 * (1 - std::cos(std::numbers::pi * progress));
  if (type == "1-sqrt") rise = 1 - std::sqrt(1 - progress);
  return rise * (1 - *options_.min_lr_ratio) + *options_.min_lr_ratio;
}

template <class Tag>
double BasicLRSchedule<Tag>::stable_decay(double step) const {
  const double low = *options_.min_lr_ratio;
  const double decay = static_cast<double>(*options_.num_decay_steps);
  const double fallen = step - static_cast<double>(options_.num_warmup_steps) -
                        static_cast<double>(*options_.num_stable_steps);
  if (fallen < 0) return 1;
  if (fallen >= decay) return low;
  const double f = shape(*options_.decay_type, fallen / decay, *options_.num_cycles);
  return std::max(0.0, f * (1 - low) + low);
}

template <class Tag>
double BasicLRSchedule<Tag>::factor(Index step) const {
  if (step < 0) refuse("the step is " + std::to_string(step) + ", expected >= 0");
  if (kind_ == Kind::constant) return 1;
  const double s = static_cast<double>(step), w = static_cast<double>(options_.num_warmup_steps);
  if (step < options_.num_warmup_steps) return warmup(s);
  if (kind_ == Kind::constant_with_warmup) return 1;
  if (kind_ == Kind::warmup_stable_decay) return stable_decay(s);
  if (kind_ == Kind::inverse_sqrt) {
    const double t = static_cast<double>(*options_.timescale);
    return 1 / std::sqrt((s + (t - w)) / t);
  }
  const double n = static_cast<double>(*options_.num_training_steps), span = std::max(1.0, n - w);
  const double q = (s - w) / span, cycles = *options_.num_cycles;
  switch (kind_) {
    case Kind::linear:
      return std::max(0.0, (n - s) / span);
    case Kind::cosine_with_restarts:
      if (q >= 1) return 0;
      return std::max(0.0, 0.5 * (1 + std::cos(std::numbers::pi * std::fmod(cycles * q, 1.0))));
    case Kind::polynomial: {
      const double end = *options_.lr_end, start = *options_.base_lr;
      if (s > n) return end / start;
      return ((start - end) * std::pow(1 - q, *options_.power) + end) / start;
    }
    case Kind::cosine:
      return std::max(0.0, shape("cosine", q, cycles));
    default: {
      const bool ahead = kind_ == Kind::cosine_warmup_with_min_lr;
      const double low = *options_.min_lr_rate;
      const double f = shape("cosine", ahead ? (s - w + 1) / span : q, cycles);
      return std::max(0.0, f * (1 - low) + low);
    }
  }
}

}  // namespace lora
